package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/vem/hold"
)

// newRecord checks a request to run an app and turns it into a record.
func (d *Daemon) newRecord(req *api.RunRequest) (*app.Record, error) {
	bad := func(err error) (*app.Record, error) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if len(req.GetArgs()) == 0 {
		return bad(fmt.Errorf("no program to run"))
	}
	name := req.GetName()
	if name == "" {
		name = d.chooseName(filepath.Base(req.GetArgs()[0]))
	}
	if err := snapshot.ValidateName(name); err != nil {
		return bad(err)
	}
	rec := &app.Record{
		Identity: app.Identity{Name: name},
		Address:  app.Address{Network: req.GetNetwork()},
		Policy: app.Policy{
			HibernateAfter: req.GetHibernateAfter().AsDuration(), RestoreMemory: pagesOf(req.GetRestoreMemory()),
			AcceptChanged: req.GetAcceptChangedFiles(),
		},
	}
	var err error
	if rec.Addr4, err = parseEndpoint(req.GetEndpoint()); err != nil {
		return bad(err)
	}
	if rec.Wake, err = wakePolicy(req.GetWake()); err != nil {
		return bad(err)
	}
	if rec.AcceptLost, err = app.Protections(req.GetAcceptLost()); err != nil {
		return nil, err
	}
	for _, p := range req.GetPublish() {
		pub := app.Publication{Proto: cmp.Or(p.GetProtocol(), "tcp"), HostPort: uint16(p.GetHostPort()), Port: uint16(p.GetPort())}
		if pub.Proto != "tcp" && pub.Proto != "udp" || p.GetHostPort()-1 > 65534 || p.GetPort()-1 > 65534 {
			return bad(fmt.Errorf("publish %d:%d/%s: want ports 1 to 65535 of tcp or udp", p.GetHostPort(), p.GetPort(), pub.Proto))
		}
		if a := p.GetHostAddress(); a != "" {
			if pub.HostAddr, err = netip.ParseAddr(a); err != nil {
				return bad(fmt.Errorf("publish: %w", err))
			}
			if !pub.HostAddr.Is4() {
				return bad(fmt.Errorf("publish at %s: want an IPv4 address of the host", a))
			}
		}
		if slices.ContainsFunc(rec.Publish, pub.Meets) {
			return bad(fmt.Errorf("publish host port %d/%s twice", pub.HostPort, pub.Proto))
		}
		rec.Publish = append(rec.Publish, pub)
	}
	if rec.Spec, err = newSpec(req, name); err != nil {
		return bad(err)
	}
	return rec, nil
}

// newSpec writes down what runs as an OCI runtime spec.
func newSpec(req *api.RunRequest, name string) (*specs.Spec, error) {
	root := cmp.Or(req.GetRootfs(), "/")
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("root directory %q: not an absolute path", root)
	}
	usr, err := parseUser(req.GetUser())
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

// parseUser reads NAME, UID or UID:GID; names are the host's.
func parseUser(text string) (*specs.User, error) {
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

func parseEndpoint(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("endpoint %q: want an IPv4 address of the network, such as 10.77.0.7", text)
	}
	return a, nil
}

func wakePolicy(p *api.WakePolicy) (hold.WakePolicy, error) {
	var w hold.WakePolicy
	switch p.GetMode() {
	case api.WakeMode_WAKE_MODE_ON_CONNECT:
		w.Mode = hold.OnConnect
	case api.WakeMode_WAKE_MODE_NEVER:
		w.Mode = hold.Never
	case api.WakeMode_WAKE_MODE_ON_DATA, api.WakeMode_WAKE_MODE_UNSPECIFIED:
		w.Mode = hold.OnData
	}
	w.MinBytes, w.Timers = int(p.GetMinBytes()), p.GetTimers()
	for _, s := range p.GetIgnore() {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			addr, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return w, fmt.Errorf("wake policy: ignore %q: want an address or a prefix", s)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		w.Ignore = append(w.Ignore, hold.Unmap(prefix))
	}
	if p.GetSilentAfter() != nil {
		if w.SilentAfter = p.GetSilentAfter().AsDuration(); w.SilentAfter <= 0 {
			w.SilentAfter = neverSilent
		}
	}
	return w, w.Validate()
}

// neverSilent is how a wake policy says that silent connections never wake.
const neverSilent = -1

func showWake(w hold.WakePolicy) *api.WakePolicy {
	p := &api.WakePolicy{Mode: wakeModes[w.Mode], MinBytes: int32(w.MinBytes), Timers: w.Timers}
	for _, prefix := range w.Ignore {
		p.Ignore = append(p.Ignore, prefix.String())
	}
	if w.SilentAfter != 0 {
		p.SilentAfter = durationpb.New(max(0, w.SilentAfter))
	}
	return p
}

// chooseName finds a free name for an app that was given none.
func (d *Daemon) chooseName(program string) string {
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, program)
	base = cmp.Or(strings.Trim(base[:min(len(base), 40)], "-"), "app")
	d.mu.Lock()
	defer d.mu.Unlock()
	name := base
	for i := 2; d.apps[name] != nil || d.cloning[name]; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return name
}

// recordOf is the record of an app to be made from a snapshot, but for its name
// and endpoint.
func recordOf(m *snapshot.Manifest) (*app.Record, error) {
	spec := *m.Spec
	rec := &app.Record{
		Spec: &spec, Address: app.Address{Network: m.Network},
		Files: app.Files{Memory: m.MemoryFiles(), HostFiles: slices.Clone(m.HostFiles), Layers: slices.Clone(m.Layers)},
	}
	for i := range rec.Layers {
		rec.Layers[i].Own = false
	}
	for i := range rec.HostFiles {
		rec.HostFiles[i].Own = false
	}
	var err error
	if rec.Inside4, err = netip.ParseAddr(m.Endpoint); err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if m.Endpoint6 != "" {
		if rec.Inside6, err = netip.ParseAddr(m.Endpoint6); err != nil {
			return nil, fmt.Errorf("endpoint: %w", err)
		}
	}
	return rec, rec.HeedPolicy(m.Policy)
}

// restoredRecord is the record of an app to be made from a snapshot.
func restoredRecord(req *api.RestoreRequest, m *snapshot.Manifest) (*app.Record, error) {
	if !m.WithStorage {
		return nil, refusef("snapshot %s has no files: nothing can be restored from it alone", req.GetSnapshot())
	}
	name := cmp.Or(req.GetAs(), m.App)
	if err := snapshot.ValidateName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	addr, err := netip.ParseAddr(m.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: endpoint: %w", req.GetSnapshot(), err)
	}
	if text := req.GetEndpoint(); text != "" {
		asked, err := parseEndpoint(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		addr = asked
	}
	rec, err := recordOf(m)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", req.GetSnapshot(), err)
	}
	rec.Name, rec.Addr4, rec.RestoredFrom = name, addr, req.GetSnapshot()
	p, err := newPolicy(req, req.AcceptChangedFiles)
	if err != nil {
		return nil, err
	}
	p.change(rec)
	return rec, nil
}

var statusCodes = map[app.Status]api.Status{
	app.Creating: api.Status_STATUS_CREATING, app.Running: api.Status_STATUS_RUNNING, app.Snapshotting: api.Status_STATUS_SNAPSHOTTING,
	app.Hibernating: api.Status_STATUS_HIBERNATING, app.Held: api.Status_STATUS_HELD, app.Waking: api.Status_STATUS_WAKING, app.Resuming: api.Status_STATUS_WAKING,
	app.Restoring: api.Status_STATUS_RESTORING, app.Pooled: api.Status_STATUS_RESTORING, app.Stopped: api.Status_STATUS_STOPPED, app.Removing: api.Status_STATUS_REMOVING,
}

var wakeModes = map[hold.Mode]api.WakeMode{
	hold.OnData: api.WakeMode_WAKE_MODE_ON_DATA, hold.OnConnect: api.WakeMode_WAKE_MODE_ON_CONNECT, hold.Never: api.WakeMode_WAKE_MODE_NEVER,
}

// show tells all about an app.
func (d *Daemon) show(a *App) *api.App {
	rec, op := a.read()
	out := &api.App{
		Name: rec.Name, Status: statusCodes[rec.Status], Endpoint: rec.Addr4.String(), Network: rec.Network,
		Args: rec.Spec.Process.Args, Pid: int32(rec.Process.PID),
		CreatedAt: timestamppb.New(rec.CreatedAt), StatusAt: timestamppb.New(rec.StatusAt),
		Wake:           showWake(rec.Wake),
		HibernateAfter: durationpb.New(rec.HibernateAfter), RestoreMemory: showPages(rec.RestoreMemory),
		Rootfs: rec.Spec.Root.Path, Hostname: rec.Spec.Hostname, Workdir: rec.Spec.Process.Cwd,
		User: strconv.Itoa(int(rec.Spec.Process.User.UID)), Exit: rec.Exit, RestoredFrom: rec.RestoredFrom,
		Error: rec.LastError, Operation: op, Notes: showNotes(rec.Notes), AcceptLost: app.ProtectionNames(rec.AcceptLost),
		AcceptChangedFiles: rec.AcceptChanged,
	}
	if rec.Addr6.IsValid() {
		out.Endpoint6 = rec.Addr6.String()
	}
	if inside, _ := rec.Inside(); inside != rec.Addr4 {
		out.InsideEndpoint = inside.String()
	}
	out.Awake, out.Alarm, out.WokenBy = a.whyAwake(), showAlarm(&rec), showWokenBy(&rec)
	out.Template, out.Number, out.Generation = rec.Template, int32(rec.Number), rec.Generation
	for _, p := range rec.Publish {
		pub := &api.Publication{Protocol: p.Proto, HostPort: uint32(p.HostPort), Port: uint32(p.Port)}
		if p.HostAddr.IsValid() {
			pub.HostAddress = p.HostAddr.String()
		}
		out.Publish = append(out.Publish, pub)
	}
	for _, m := range rec.Spec.Mounts {
		out.Binds = append(out.Binds, &api.Bind{Source: m.Source, Destination: m.Destination, ReadOnly: slices.Contains(m.Options, "ro")})
	}
	if l := rec.Spec.Linux; l != nil && l.Resources != nil {
		out.Limits = showLimits(l.Resources)
	}
	if rec.LastError != "" {
		out.Hint = a.advice()
	}
	if rec.Status == app.Held {
		out.HeldSockets = int32(len(a.heldInodes()))
	}
	if pids, err := a.cgroup().PIDs(); err == nil {
		out.Processes, out.MemoryBytes = int32(len(pids)), sandbox.UsedBytes(pids)
	}
	if out.MemoryBytes == 0 { // it has no process
		out.MemoryBytes = a.box.Cgroup().MemoryBytes()
	}
	return out
}

func showLimits(r *specs.LinuxResources) *api.Limits {
	l := &api.Limits{}
	if r.Memory != nil && r.Memory.Limit != nil {
		l.MemoryBytes = *r.Memory.Limit
	}
	if r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil {
		l.Cpus = float64(*r.CPU.Quota) / float64(*r.CPU.Period)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		l.Pids = *r.Pids.Limit
	}
	return l
}

// showSnapshot tells all about a snapshot that its manifest knows.
func showSnapshot(m *snapshot.Manifest) *api.Snapshot {
	s := &api.Snapshot{
		Name: m.Name, App: m.App, CreatedAt: timestamppb.New(m.CreatedAt), Endpoint: m.Endpoint, Network: m.Network,
		Args: m.Spec.Process.Args, CriuVersion: criu.VersionText(m.Origin.CRIUVersion), Kernel: m.Origin.Kernel,
		Processes: int32(m.Processes), Connections: int32(m.Connections),
	}
	if p := m.Policy; p != nil {
		s.AcceptChangedFiles = p.AcceptChangedFiles
		var pages restore.Pages
		if p.RestoreMemory == "" || pages.UnmarshalText([]byte(p.RestoreMemory)) == nil {
			s.RestoreMemory = showPages(pages)
		}
	}
	for _, f := range m.Files {
		s.SizeBytes += f.SizeBytes
		switch {
		case strings.HasPrefix(f.Path, "images/pages-"):
			s.MemoryBytes += f.SizeBytes
		case strings.HasPrefix(f.Path, "storage/"), strings.HasPrefix(f.Path, "shm/"):
			s.StorageBytes += f.SizeBytes
		}
	}
	for _, f := range m.Memory {
		if f.Image == "" {
			s.MemorySharedBytes += f.SizeBytes
			continue
		}
		s.SizeBytes += f.SizeBytes
		s.MemoryBytes += f.SizeBytes
	}
	for i := range m.HostFiles {
		switch f := &m.HostFiles[i]; {
		case f.ID == "": // no copy of it is kept
		case f.Own:
			s.SizeBytes += f.SizeBytes
			s.HostFilesBytes += f.SizeBytes
		default:
			s.HostFilesSharedBytes += f.SizeBytes
		}
	}
	for _, l := range m.Layers {
		if !l.Own {
			s.StorageSharedBytes += l.SizeBytes
			continue
		}
		s.SizeBytes += l.SizeBytes
		s.StorageBytes += l.SizeBytes
	}
	return s
}
