package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/testenv"
)

// Where the container is: it has a network namespace of its own, as an app has.
const (
	RuncEndpoint = "10.99.0.2"
	runcGateway  = "10.99.0.1"
	runcName     = "bench"
)

// Container is the server in a runc container on the scratch host.
type Container struct {
	w      *World
	bundle string
}

// HaveRunc tells whether there is a runc to compare with.
func HaveRunc() bool {
	_, err := exec.LookPath("runc")
	return err == nil
}

// Runc runs the benchmarked server in a container.
func (w *World) Runc(ctx context.Context, mib int) (_ *Container, err error) {
	path, err := w.Install(ctx, "subject")
	if err != nil {
		return nil, err
	}
	bundle, err := os.MkdirTemp(w.Dir(), "runc-")
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"proc", "dev", "bin"} {
		if err := os.MkdirAll(filepath.Join(bundle, "rootfs", dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Link(path, filepath.Join(bundle, "rootfs", "bin", "subject")); err != nil {
		return nil, err
	}
	b, err := json.Marshal(runcSpec(mib))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		return nil, err
	}
	c := &Container{w: w, bundle: bundle}
	for _, line := range []string{
		"netns add " + runcName,
		"link add runc0 type veth peer name eth0 netns " + runcName,
		"addr add " + runcGateway + "/24 dev runc0",
		"link set runc0 up",
		"-n " + runcName + " addr add " + RuncEndpoint + "/24 dev eth0",
		"-n " + runcName + " link set eth0 up",
		"-n " + runcName + " link set lo up",
	} {
		if err := c.command(ctx, "ip", strings.Fields(line)...); err != nil {
			return nil, err
		}
	}
	return c, c.runc(ctx, "run", "--detach", "--bundle", bundle)
}

func runcSpec(mib int) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/subject", "-memory", fmt.Sprint(mib)},
			// CRIU can't save a Multipath TCP listener, which Go makes by default.
			Env: []string{"GOMAXPROCS=1", "GODEBUG=multipathtcp=0"}, Cwd: "/",
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/bench-runc",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/run/netns/" + runcName},
			},
		},
	}
}

// command runs a program on the scratch host; what fails is in the error.
func (c *Container) command(ctx context.Context, name string, args ...string) error {
	cmd := c.w.Command(ctx, name, args...)
	// runc starts whatever `criu` is on PATH; the distribution's may be too old.
	dir := filepath.Dir(testenv.CRIUPath())
	cmd.Env = append(cmd.Env, "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	errFile, err := os.OpenFile(filepath.Join(c.w.Dir(), "runc.err"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer errFile.Close()
	cmd.Stderr = errFile // not a pipe: the container keeps it
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(errFile.Name())
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, text)
	}
	return nil
}

func (c *Container) runc(ctx context.Context, op string, args ...string) error {
	if op == "run" || op == "restore" {
		// A descriptor of a file outside of the container is one that CRIU
		// can't name; runc opens /dev/null again inside.
		args = append([]string{"-c", `exec "$0" "$@" </dev/null >/dev/null 2>&1`, "runc", op}, args...)
		return c.command(ctx, "sh", append(args, runcName)...)
	}
	return c.command(ctx, "runc", append(append([]string{op}, args...), runcName)...)
}

func (c *Container) dirs() []string {
	return []string{"--image-path", filepath.Join(c.bundle, "images"), "--work-path", filepath.Join(c.bundle, "work"), "--tcp-established"}
}

// Checkpoint saves the container and returns how long it stood still, by CRIU's
// account.
func (c *Container) Checkpoint(ctx context.Context, args ...string) (time.Duration, error) {
	if err := c.runc(ctx, "checkpoint", append(c.dirs(), args...)...); err != nil {
		return 0, err
	}
	return frozenTime(filepath.Join(c.bundle, "work", "stats-dump"))
}

// Restore restores the container, detached, and returns how long runc took.
func (c *Container) Restore(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := c.runc(ctx, "restore", append(c.dirs(), "--detach", "--bundle", c.bundle)...)
	return time.Since(began), err
}

// End removes the container and its network.
func (c *Container) End(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := c.runc(ctx, "delete", "--force"); err != nil {
		return err
	}
	if err := c.command(ctx, "ip", "netns", "delete", runcName); err != nil {
		return err
	}
	return os.RemoveAll(c.bundle)
}
