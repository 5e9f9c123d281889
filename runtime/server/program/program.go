// Package program reads what a request to run an app says of its program.
package program

import (
	"cmp"
	"fmt"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/runtime/api"
)

// New writes down what runs as an OCI runtime spec.
func New(req *api.RunRequest, name string) (*specs.Spec, error) {
	root := cmp.Or(req.GetRootfs(), "/")
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("root directory %q: not an absolute path", root)
	}
	usr, err := ParseUser(req.GetUser())
	if err != nil {
		return nil, err
	}
	cwd := cmp.Or(req.GetWorkdir(), "/")
	if !path.IsAbs(cwd) {
		return nil, fmt.Errorf("working directory %q: not an absolute path", cwd)
	}
	env := slices.Clone(req.GetEnv())
	for _, e := range env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			return nil, fmt.Errorf("environment %q: want KEY=VALUE", e)
		}
	}
	for _, def := range []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"} {
		key, _, _ := strings.Cut(def, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") }) {
			env = append(env, def)
		}
	}
	spec := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: filepath.Clean(root)},
		Hostname: cmp.Or(req.GetHostname(), name),
		Process:  &specs.Process{Args: req.GetArgs(), Env: env, Cwd: path.Clean(cwd), User: *usr},
		Linux:    &specs.Linux{Resources: limits(req.GetLimits())},
	}
	for _, b := range req.GetBinds() {
		m := specs.Mount{Source: b.GetSource(), Destination: path.Clean(b.GetDestination()), Type: "bind", Options: []string{"rbind"}}
		if !filepath.IsAbs(m.Source) || !path.IsAbs(m.Destination) || m.Destination == "/" {
			return nil, fmt.Errorf("bind %s to %s: both must be absolute paths, and not the root", m.Source, m.Destination)
		}
		if b.GetReadOnly() {
			m.Options = append(m.Options, "ro")
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	return spec, nil
}

func limits(l *api.Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	if v := l.GetMemoryBytes(); v > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &v}
	}
	if c := l.GetCpus(); c > 0 {
		period := uint64(100_000)
		quota := int64(c * float64(period))
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if v := l.GetPids(); v > 0 {
		r.Pids = &specs.LinuxPids{Limit: &v}
	}
	return r
}

// ParseUser reads NAME, UID or UID:GID; names are the host's.
func ParseUser(text string) (*specs.User, error) {
	if text == "" {
		return &specs.User{}, nil
	}
	id, group, hasGroup := strings.Cut(text, ":")
	if uid, err := strconv.ParseUint(id, 10, 32); err == nil {
		gid := uid
		if hasGroup {
			if gid, err = strconv.ParseUint(group, 10, 32); err != nil {
				return nil, fmt.Errorf("user %q: want NAME, UID or UID:GID", text)
			}
		}
		return &specs.User{UID: uint32(uid), GID: uint32(gid)}, nil
	}
	u, err := user.Lookup(id)
	if err != nil || hasGroup {
		return nil, fmt.Errorf("user %q: no such user; want NAME, UID or UID:GID", text)
	}
	out := &specs.User{Username: u.Username}
	for _, p := range []struct {
		text string
		id   *uint32
	}{{u.Uid, &out.UID}, {u.Gid, &out.GID}} {
		n, err := strconv.ParseUint(p.text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", text, err)
		}
		*p.id = uint32(n)
	}
	return out, nil
}
