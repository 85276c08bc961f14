# Sourced by the scripts that run checks: counts them, times them, and shows the end of what a failed one printed beside its name.
# What checks leave is in the folder $scratch, which others may enter, and which goes with the script, also at Ctrl-C.
scratch=$(mktemp -d /tmp/livestore-checks-XXXXXX)
chmod 711 "$scratch"
observed=$scratch/observed
end_checks() {
    local one
    # Those that have ended have a status, and their numbers may be others' by now.
    for one in "${beside[@]}"; do [ -e "${one#* }.status" ] || end_tree "${one%% *}"; done
    rm -rf "$scratch"
}
# Ends a process, and then those that its threads started.
end_tree() {
    local child children
    children=$(cat /proc/"$1"/task/*/children 2> /dev/null) || true
    kill "$1" 2> /dev/null || true
    for child in $children; do end_tree "$child"; done
}
trap end_checks EXIT
trap 'exit 1' INT TERM
passed=0
failed=0
failures=()
times=()
declare -A beside=()

# Usage: check NAME COMMAND…: one test, which the command passes if it succeeds.
check() {
    observe "$@"
    if [ "$status" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
}

# Usage: fail NAME: something that is not there counts as a test that failed.
fail() {
    failed=$((failed + 1))
    failures+=("failed: $1")
}

# Usage: runner NAME COMMAND…: the command counts its tests itself, in lines as cargo prints them, or in its last line, as `finish` prints
# its sums, which have everything before them in them.
runner() {
    local sums
    observe "$@"
    # A `make` that failed says so behind the sums.
    sums=$(sed '/^make.*: \*\*\*/d' "$observed" |
        sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/one \1 \2/p; $s/^([0-9]+) passed, ([0-9]+) failed$/all \1 \2/p' |
        awk '$1 == "all" { passed = $2; failed = $3 } $1 == "one" { passed += $2; failed += $3 } END { print passed + 0, failed + 0 }')
    passed=$((passed + ${sums% *}))
    failed=$((failed + ${sums#* }))
    # It did not compile, or it crashed.
    if [ "$status" != 0 ] && [ "${sums#* }" = 0 ]; then failed=$((failed + 1)); fi
    # Its filters fit no test any more.
    if [ "$status" = 0 ] && [ "$sums" = "0 0" ]; then fail "$1: it ran no test"; fi
}

# Usage: begin NAME COMMAND…: starts a command, which runs beside the checks that follow until `check NAME await NAME` counts it.
begin() {
    local name=$1 printed
    shift
    printed=$(mktemp -p "$scratch")
    (
        set +e
        trap - ERR
        # All of it stays until `end_checks` ends it.
        trap '' INT
        (end_at_failures; "$@") < /dev/null > "$printed" 2>&1
        echo $? > "$printed.status"
    ) &
    beside[$name]="$! $printed"
}

# Prints what a command has printed that was begun, waits for its end, and has its status.
await() {
    local process=${beside[$1]%% *} printed=${beside[$1]#* }
    tail --pid="$process" --bytes=+1 --follow "$printed"
    return "$(cat "$printed.status")"
}

# Runs a command, shows what it prints, keeps that in the file $observed, and sets $status.
observe() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s (after %s s)\n' "$name" "$SECONDS"
    : > "$observed"
    # Its own shell ends at the first command that fails, this one does not.
    set +e
    trap - ERR
    (end_at_failures; "$@") < /dev/null 2>&1 | tee "$observed"
    status=${PIPESTATUS[0]}
    end_at_failures
    times+=("$(printf '%5s s  %s' $((SECONDS - start)) "$name")")
    if [ "$status" != 0 ]; then
        failures+=("$(printf 'failed: %s\n' "$name" && reasons | sed 's/^/    | /')")
    fi
}

# What $observed says of a failure: panics, which may be far from its end, and its end.
reasons() {
    grep -a -A 6 ' panicked at ' "$observed" | head -n 60 || true
    tail -n 25 "$observed"
}

# Ends the script with its last lines: the time of each check, the output of those that failed, and the sums. Its status is 0
# if all is well.
finish() {
    # Nothing goes on after it.
    wait
    beside=()
    printf '\n'
    [ ${#times[@]} = 0 ] || printf '%s\n' "${times[@]}"
    [ ${#failures[@]} = 0 ] || printf '\n%s\n' "${failures[@]}"
    printf '\nin %s s\n%s passed, %s failed\n' "$SECONDS" "$passed" "$failed"
    if [ "$failed" = 0 ] && [ "$passed" != 0 ]; then exit 0; fi
    exit 1
}
