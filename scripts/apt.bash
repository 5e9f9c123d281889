# shellcheck shell=bash
# Installing with apt, for scripts/deps: on the machine without starting any
# service, or as a private copy that leaves the machine's packages alone.
# The caller has say and die, and sets suite.
: "${suite:?}"

# candidate_version prints which version apt would install; nothing if none.
candidate_version() { # PACKAGE
	{ apt-cache policy "$1" 2>/dev/null || true; } |
		sed -n 's/^  Candidate: \([0-9]*:\)\{0,1\}\([0-9.]*\).*/\2/p'
}

# ---- On the machine

# machine_install installs packages of the machine's own distribution. The
# services in them are neither started nor enabled: the tests start their own.
machine_install() { # PACKAGE...
	[ "$(id -u)" = 0 ] ||
		die "not root, so apt cannot install: $*" "run the same command with sudo"
	say "installing $*"
	local log before services=() service
	exec 8>"$policy_lock" # one at a time: they would undo each other's policy
	flock 8
	log=$(mktemp)
	before=$(service_files)
	forbid_services
	machine_apt update >"$log" 2>&1 || say "apt-get update failed; going on with the lists that are here"
	if ! machine_apt install --no-install-recommends "$@" >>"$log" 2>&1; then
		allow_services
		tail -n 20 "$log" >&2
		rm -f "$log"
		die "apt cannot install: $*" "see apt's words above; is there a network, and is Debian's mirror set in /etc/apt?"
	fi
	allow_services
	rm -f "$log"
	mapfile -t services < <(comm -13 <(echo "$before") <(service_files))
	for service in "${services[@]}"; do
		case $service in
		*@.service) ;;
		*.service) deb-systemd-helper disable "$service" ;;
		*) update-rc.d "$service" disable ;;
		esac
	done >/dev/null 2>&1 || true
	exec 8>&-
}

machine_apt() {
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
		apt-get -q -y -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" </dev/null
}

service_files() {
	{ find /lib/systemd/system -maxdepth 1 -type f -name '*.service' -printf '%f\n'
		find /etc/init.d -type f -printf '%f\n'; } 2>/dev/null | sort -u || true
}

# invoke-rc.d and deb-systemd-invoke ask policy-rc.d before they start anything
# (man 8 invoke-rc.d); 101 forbids it. Ours forbids while the lock is held, by
# this script or by an apt that outlived it, so that one left behind by kill -9
# does no harm; it asks the one that was there before.
policy=/usr/sbin/policy-rc.d
policy_mark='made by snapctl scripts/deps'
policy_lock=/run/snapctl-deps.lock

forbid_services() {
	allow_services # one left behind by a run that was killed
	trap allow_services EXIT
	if [ -e "$policy" ]; then mv "$policy" "$policy.snapctl-saved"; fi
	cat >"$policy.snapctl-new" <<-POLICY
		#!/bin/sh
		# $policy_mark: no service is started while it installs
		flock -n $policy_lock true || exit 101
		[ ! -x $policy.snapctl-saved ] || exec $policy.snapctl-saved "\$@"
		exit 0
	POLICY
	chmod 755 "$policy.snapctl-new"
	mv "$policy.snapctl-new" "$policy"
}

allow_services() {
	if grep -qs "$policy_mark" "$policy"; then rm -f "$policy"; fi
	if [ -e "$policy.snapctl-saved" ]; then mv "$policy.snapctl-saved" "$policy"; fi
}

# allow_services_again undoes what a run that was killed left behind.
allow_services_again() {
	if [ "$(id -u)" != 0 ] || ! grep -qs "$policy_mark" "$policy"; then return; fi
	exec 8>"$policy_lock"
	flock 8
	allow_services
	exec 8>&-
}

# ---- As a private copy
#
# A prefix holds one tree per copy and bin/ with the programs. A tree is
# unpacked aside and renamed; renaming the program into bin/ is what makes the
# copy count, so that a reader sees the old copy or the new one.

private_arch() { # WHAT; prints the architecture
	local hint="install a new enough $1 by hand (scripts/deps --help says how it is found)"
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
		die "no $1 here that is new enough, and no apt to get one with" "$hint"
	fi
	[ -e "$(debian_keyring)" ] ||
		die "no Debian keyring here to check $1 with" "install the package debian-archive-keyring, or $hint"
	dpkg --print-architecture
}

debian_keyring() {
	local f
	for f in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
		[ ! -e "$f" ] || { echo "$f"; return; }
	done
}

# debian_mirrors prints the Debian mirrors that this machine's apt uses, then
# the default. apt itself reads its configuration, whatever its format.
debian_mirrors() {
	{
		apt-get -o Debug::NoLocking=1 --print-uris update 2>/dev/null |
			sed -n "s#^'\(.*\)/dists/[^/]*/InRelease'.*#\1#p" |
			grep -E '/debian/?$|^mirror\+.*debian' || true
		echo http://deb.debian.org/debian
	} | awk '!seen[$0]++'
}

with_lock() { # PREFIX COMMAND...
	local prefix=$1
	shift
	mkdir -p "$prefix" 2>/dev/null || true
	[ -w "$prefix" ] ||
		die "cannot write to $prefix" "run the same command with sudo, or set SNAPCTL_CRIU_PREFIX and SNAPCTL_GO_PREFIX to folders of yours"
	exec 9>"$prefix/.lock"
	flock 9
	"$@"
	exec 9>&-
}

# private_tree makes a tree of PACKAGES and all they depend on, and sets
# private_tree_made. The packages come through apt, which checks Debian's
# signature and their digests, and are unpacked, not installed.
private_tree() { # PREFIX WHAT PACKAGE...
	local prefix=$1 what=$2 mirror
	shift 2
	work=$(mktemp -d "$prefix/.work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	chmod 755 "$work" # apt downloads as the user _apt
	for mirror in $(debian_mirrors); do
		say "getting a private $what from Debian $suite ($mirror) into $prefix"
		if private_download "$mirror" "$@" >"$work/log" 2>&1; then
			private_unpack "$prefix" "$1"
			return
		fi
		tail -n 8 "$work/log" >&2
		say "$mirror did not give it"
	done
	die "cannot get $what from Debian $suite" \
		"see apt's words above; with no network here, install a new enough $what by hand (scripts/deps --help says how it is found)"
}

private_download() { # MIRROR PACKAGE...
	local mirror=$1
	shift
	rm -rf "$work/apt"
	mkdir -p "$work"/apt/state/lists/partial "$work"/apt/cache/archives/partial
	: >"$work/apt/state/status" # nothing is installed, so libc comes too
	echo "deb [arch=$(dpkg --print-architecture) target=Packages signed-by=$(debian_keyring)] $mirror $suite main" \
		>"$work/apt/sources.list"
	# Read last, so that the machine's proxy settings hold but not its hooks.
	cat >"$work/apt/apt.conf" <<-CONF
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear Acquire::Languages;
		Acquire::Languages "none";
		APT::Default-Release "";
		APT::Install-Recommends "false";
		APT::Install-Suggests "false";
		APT::Update::Error-Mode "any";
		Dir::Etc::SourceList "$work/apt/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::Etc::Preferences "/dev/null";
		Dir::Etc::PreferencesParts "/dev/null";
		Dir::State "$work/apt/state";
		Dir::State::Lists "$work/apt/state/lists";
		Dir::State::status "$work/apt/state/status";
		Dir::Cache "$work/apt/cache";
		Dir::Cache::Archives "$work/apt/cache/archives";
	CONF
	apt-get -q -c "$work/apt/apt.conf" update &&
		apt-get -q -y -c "$work/apt/apt.conf" install --download-only "$@" </dev/null
}

private_unpack() { # PREFIX PACKAGE
	local deb name
	mkdir "$work/tree"
	for deb in "$work"/apt/cache/archives/*.deb; do
		dpkg-deb -x "$deb" "$work/tree"
	done
	chmod 755 "$work/tree"
	name=$(basename "$(find "$work/apt/cache/archives" -name "$2_*.deb")" .deb)
	[ -n "$name" ] || die "apt did not bring $2" "try again"
	private_tree_made=$1/$name
	rm -rf "$private_tree_made"
	sync -f "$work"
	mv "$work/tree" "$private_tree_made"
	rm -rf "$work"
	trap - EXIT
}

commit_program() { # PREFIX NAME <CONTENT
	mkdir -p "$1/bin"
	cat >"$1/bin/.$2"
	chmod 755 "$1/bin/.$2"
	mv "$1/bin/.$2" "$1/bin/$2"
}

drop_other_trees() { # PREFIX TREE
	find "$1" -mindepth 1 -maxdepth 1 -type d ! -name bin ! -path "$2" -exec rm -rf {} +
}
