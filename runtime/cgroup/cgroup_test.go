package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/testenv"
)

// The first thread is none that dies with its goroutine: it is the test's own.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // see above

func TestRoomy(t *testing.T) {
	limit, memory := int64(10), int64(1<<20)
	qt.Check(t, qt.IsNil(Roomy(nil)))
	qt.Check(t, qt.IsNil(Roomy(&specs.LinuxResources{})))
	got := Roomy(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}, Memory: &specs.LinuxMemory{Limit: &memory}})
	qt.Check(t, qt.Equals(*got.Pids.Limit, 10+roomProcesses))
	qt.Check(t, qt.Equals(*got.Memory.Limit, 1<<20+roomMemoryBytes))
	qt.Check(t, qt.Equals(limit, 10), qt.Commentf("the app's own limit is another value"))
}

func TestViewsOfV2(t *testing.T) {
	tree := &Tree{runDir: t.TempDir(), mount: "/cg", name: "/snapctl", unified: true}
	group := tree.Group("web")
	qt.Check(t, qt.DeepEquals(group.Views(), []View{{Key: "cgroup", Path: "/sys/fs/cgroup", Source: "/cg/snapctl/web"}}))
	qt.Assert(t, qt.IsNil(tree.makeViews()))
	sources := group.ViewSources()
	qt.Check(t, qt.Equals(sources["/sys/fs/cgroup"], "/cg/snapctl/web"))
	// An app that was saved on a host with v1 controllers finds an empty directory there.
	entries, err := os.ReadDir(sources["/sys/fs/cgroup/memory"])
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 0))
	qt.Assert(t, qt.IsNil(tree.removeViews()))
	entries, err = os.ReadDir(tree.runDir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 0))
}

// Two controllers that share a hierarchy are one view, and a link in the directory of all.
func TestViewsOfV1(t *testing.T) {
	legacy, run := t.TempDir(), t.TempDir()
	for _, dir := range []string{"memory", "cpu,cpuacct"} {
		qt.Assert(t, qt.IsNil(os.Mkdir(filepath.Join(legacy, dir), 0o700)))
	}
	for _, name := range []string{"cpu", "cpuacct"} {
		qt.Assert(t, qt.IsNil(os.Symlink("cpu,cpuacct", filepath.Join(legacy, name))))
	}
	tree := &Tree{runDir: run, name: "/snapctl", legacy: legacy}
	qt.Check(t, qt.Equals(tree.hierarchyOf("memory"), "memory"))
	qt.Check(t, qt.Equals(tree.hierarchyOf("cpuacct"), "cpu,cpuacct"))
	qt.Check(t, qt.DeepEquals(tree.Group("web").Views()[0], View{Key: "cgroup", Path: "/sys/fs/cgroup", Source: filepath.Join(run, "cgroup")}))
}

// A process is born in its group, which nobody else can claim or delete as long as it runs.
func TestGroup(t *testing.T) {
	testenv.Need(t, testenv.Root)
	tree, err := Open(fmt.Sprintf("/snapctl-test-cgroup-%d", os.Getpid()), t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(tree.Delete())) }()
	group := tree.Group("web")
	qt.Assert(t, qt.IsNil(group.Claim()))
	qt.Assert(t, qt.IsNil(group.Create(t.Context(), &specs.LinuxResources{})))
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	started := make(chan error)
	go func() { started <- startOnDyingThread(group, cmd) }()
	qt.Assert(t, qt.IsNil(<-started))

	members, err := os.ReadFile(filepath.Join(group.Path(), "cgroup.procs"))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(string(members), "")))
	qt.Check(t, qt.ErrorIs(group.Claim(), ErrOccupied))
	qt.Check(t, qt.IsNotNil(group.Delete()))

	qt.Assert(t, qt.IsNil(stdin.Close()))
	qt.Assert(t, qt.IsNil(cmd.Wait()))
	for end := time.Now().Add(10 * time.Second); group.Claim() != nil; { // the thread may still be about to die
		qt.Assert(t, qt.IsTrue(time.Now().Before(end)))
	}
	_, err = os.Stat(group.Path())
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Check(t, qt.IsNil(group.Delete()), qt.Commentf("again"))
}

func startOnDyingThread(g *Group, cmd *exec.Cmd) error {
	runtime.LockOSThread() //nolint:forbidigo // not unlocked: the thread dies with its goroutine
	return g.Start(cmd)
}
