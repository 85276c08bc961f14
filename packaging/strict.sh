# Sourced by every script here. A command that fails ends the script, and the script says which one it was, and where.
shopt -s inherit_errexit

say_what_failed() {
    local status=$1 line=$2 command=$3
    # A command that a script was given has said itself what is wrong.
    [ "$command" != '"$@"' ] || return 0
    printf '%s, line %s: this command failed with status %s: %s\n' "${BASH_SOURCE[1]}" "$line" "$status" "$command" >&2
}

end_at_failures() {
    set -Eeuo pipefail
    trap 'say_what_failed "$?" "$LINENO" "$BASH_COMMAND"' ERR
}
end_at_failures
