package e2e

import (
	"os"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestHostReboots takes away what a reboot does, the run directory with all
// mounts and namespaces in it, the cgroup and the holder: a hibernated app is
// woken from its images, with its files and its /dev/shm.
func TestHostReboots(t *testing.T) {
	w := New(t, "redis-server", "ip", "nft")
	req := redisRequest("cache", "10.77.0.7")
	req.Args = append(req.Args, "--dir", "/dev/shm")
	w.Run(req)
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("SET a 1"), "+OK"))
	qt.Assert(t, qt.Equals(client.do("SAVE"), "+OK"))
	w.Hibernate("cache")

	holder := w.holderPID()
	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGKILL)))
	w.kill(holder)
	w.powerOff(t)
	w.powerOn(t, "the next one")

	a := w.Show("cache")
	qt.Assert(t, qt.Equals(a.GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.StringContains(a.GetError(), "the sockets of app cache are lost: the host was started anew meanwhile"))
	r := w.CLI("wake", "cache")
	qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	qt.Assert(t, qt.StringContains(r.Stdout, "1 socket reset: the host was started anew meanwhile"))
	again := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(again.do("APPEND a x"), ":2"))
	qt.Assert(t, qt.StringContains(w.OK("exec", "cache", "ls", "/dev/shm"), "dump.rdb"))
	w.Hibernate("cache")
	qt.Assert(t, qt.Equals(again.do("APPEND a y"), ":3"))
	w.Running("cache")
}

// powerOff removes what a daemon and a holder that were killed have left, but for the state
// directory and the cables.
func (w *World) powerOff(t *testing.T) {
	t.Helper()
	r, err := host.Run(w.Command(t.Context(), "sh", "-c", `
		while mount=$(grep -o ' `+host.RunDir+`/[^ ]*' /proc/self/mounts | tail -n 1) && [ "$mount" ]; do
			umount $mount || exit
		done
		rm -r `+host.RunDir+`
		for device in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do
			case $device in
			lo | eth[0-9]) ;;
			*) ip link delete $device || ! ip link show $device || exit ;; # it may go with the namespace of its other end
			esac
		done
		nft flush ruleset
		for group in $(find /sys/fs/cgroup -depth -path '*/snapctl-*' -type d); do
			rmdir $group || exit
		done`))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
}

// powerOn starts a daemon in another boot of the host.
func (w *World) powerOn(t *testing.T, boot string) {
	t.Helper()
	file := w.Path("boot")
	qt.Assert(t, qt.IsNil(os.WriteFile(file, []byte(boot+"\n"), 0o600)))
	qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{Args: []string{"--boot-file", file}})))
	w.Dial()
}
