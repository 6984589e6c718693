# What ./check, ./demo and the scripts share: messages, packages, the build. Sourced by bash, from the root.

export LC_ALL=C.UTF-8
mkdir -p build
packages_log=build/packages.log

# say TEXT...: one line about what happens now.
say() {
    if [ -t 1 ]; then
        printf '\033[1m==> %s\033[0m\n' "$*"
    else
        printf '==> %s\n' "$*"
    fi
}

# die TEXT...: ends with what is wrong and what to do.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# as_root COMMAND...: runs it as root, with sudo where that is needed and there.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null
}

# missing_packages PACKAGE...: those that are not installed, a line each.
missing_packages() {
    local package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            echo "$package"
        fi
    done
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" \
        >>"$packages_log" 2>&1
}

# install_packages PACKAGE...: through apt, only what is missing. Fails if it cannot be had.
install_packages() {
    local missing
    command -v dpkg-query >/dev/null || return 0 # not Debian: meson says what it does not find
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! can_be_root; then
        echo "not installed: ${missing[*]}; install them as root with: apt-get install ${missing[*]}" >&2
        return 1
    fi
    say "installing ${missing[*]}"
    : >"$packages_log"
    apt_install "${missing[@]}" && return 0
    as_root apt-get update >>"$packages_log" 2>&1 || true
    apt_install "${missing[@]}" && return 0
    tail -n 20 "$packages_log" >&2
    echo "apt-get could not install ${missing[*]}" >&2
    return 1
}

# What a build needs, and what the tests need on top.
build_packages=(gcc libc6-dev binutils meson ninja-build pkg-config libzydis-dev python3)
test_packages=(libcmocka-dev nasm seabios)
# More compilers and a second opinion: tests that miss one of these say so and are skipped.
extra_packages=(g++ clang gcc-mingw-w64-x86-64 qemu-system-x86)

# quietly LOG COMMAND...: its output goes to a terminal as it comes, else to LOG, shown if it fails.
quietly() {
    local log=$1
    shift
    if [ -t 1 ]; then
        "$@"
    elif ! "$@" >"$log" 2>&1; then
        grep -v '^\[[0-9]*/[0-9]*\] ' "$log" | tail -n 60 >&2
        return 1
    fi
}

# configure_tree FOLDER MESON-OPTION...: once, and again when the options differ. Other things in FOLDER stay.
configure_tree() {
    local folder=$1 stamp=$1/.configured-with reconfigure=()
    shift
    if [ -f "$folder/build.ninja" ]; then
        [ "$(cat "$stamp" 2>/dev/null)" != "$*" ] || return 0
        reconfigure=(--reconfigure)
    fi
    mkdir -p "$folder"
    quietly "$folder/configure.log" meson setup "${reconfigure[@]}" "$@" "$folder" . || return 1
    printf '%s\n' "$*" >"$stamp"
}

# build_tree FOLDER [TARGET...]
build_tree() {
    local folder=$1
    shift
    quietly "$folder/build.log" ninja -C "$folder" "$@"
}
