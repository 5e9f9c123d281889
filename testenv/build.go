package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/internal/lock"
)

// built remembers what this process has built: the source is not expected to
// change under it, and a look by go build costs a quarter of a second.
var built struct {
	mu    sync.Mutex
	paths map[string]string
}

// BaseDir is where scratch hosts and built programs are: SNAPCTL_TEST_DIR, or
// a directory on a real disk that apps can see, which /tmp, /var/tmp and /run
// are not, since every app has its own.
func BaseDir() string {
	if dir := os.Getenv("SNAPCTL_TEST_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/snapctl-testenv"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("snapctl-testenv-%d", os.Getuid()))
}

// Install puts a program of this module into dir and returns its path there.
// It is that of cmd/NAME or testenv/cmd/NAME, built once for each process, or
// taken from SNAPCTL_BIN_DIR if that is set. The file is dir's own: it stays
// the same if others build again.
func Install(ctx context.Context, name, dir string) (string, error) {
	path, err := build(ctx, name)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, name)
	if err := link(path, to); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return to, nil
}

func build(ctx context.Context, name string) (string, error) {
	if dir := os.Getenv("SNAPCTL_BIN_DIR"); dir != "" {
		return filepath.Abs(filepath.Join(dir, name))
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	if path := built.paths[name]; path != "" {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	pkg, err := source(root, name)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	dir := filepath.Join(BaseDir(), "bin", strings.ReplaceAll(strings.Trim(root, "/"), "/", "-"))
	err = os.MkdirAll(dir, 0o755)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	unlock, err := lock.Take(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, pkg)
	cmd.Dir = root
	// Static, to run in apps with any root directory.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	if built.paths == nil {
		built.paths = make(map[string]string)
	}
	built.paths[name] = path
	return path, nil
}

// source finds the package of a program.
func source(root, name string) (string, error) {
	for _, parent := range []string{"cmd", "testenv/cmd"} {
		if _, err := os.Stat(filepath.Join(root, parent, name, "main.go")); err == nil {
			return "./" + parent + "/" + name, nil
		}
	}
	return "", errors.New("no such program in the module")
}

// link makes to the same file as from, or a copy of it on another file system.
func link(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil // installed before
	}
	err := os.Link(from, to)
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read from
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
