# Sourced by the scripts that build for a release: the same commit makes the same files, in any folder, on any day.

# Names are sorted in one way everywhere, and files that are made here can be read by all.
export LC_ALL=C.UTF-8
umask 022

# Everything is as old as the last commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}
export SOURCE_DATE_EPOCH

# Compilers write the paths of sources into programs.
for_paths() {
    local option=$1 separator=$2 cargo_home=${CARGO_HOME:-$HOME/.cargo}
    printf '%s%s' "$option=$PWD=/src$separator" "$option=$cargo_home=/cargo"
}
CARGO_ENCODED_RUSTFLAGS=$(for_paths --remap-path-prefix $'\x1f')
# So do they the time, and zig's does not look at SOURCE_DATE_EPOCH.
CFLAGS="$(for_paths -ffile-prefix-map ' ') -Wno-builtin-macro-redefined -D__DATE__=\"none\" -D__TIME__=\"none\""
export CARGO_ENCODED_RUSTFLAGS CFLAGS

# An archive of a folder's files, at the path of its last part.
archive() {
    local file=$1 folder=$2
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
        -C "$(dirname "$folder")" -c "$(basename "$folder")" | gzip -9n > "$file"
    echo "$file"
}
