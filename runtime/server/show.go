package server

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/vem/wake"
)

var statusCodes = map[app.Status]api.Status{
	app.Creating: api.Status_STATUS_CREATING, app.Running: api.Status_STATUS_RUNNING, app.Snapshotting: api.Status_STATUS_SNAPSHOTTING,
	app.Hibernating: api.Status_STATUS_HIBERNATING, app.Held: api.Status_STATUS_HELD, app.Waking: api.Status_STATUS_WAKING, app.Resuming: api.Status_STATUS_WAKING,
	app.Restoring: api.Status_STATUS_RESTORING, app.Moving: api.Status_STATUS_MOVING, app.Pooled: api.Status_STATUS_RESTORING, app.Stopped: api.Status_STATUS_STOPPED, app.Removing: api.Status_STATUS_REMOVING,
}

var wakeModes = map[wake.Mode]api.WakeMode{
	wake.OnData: api.WakeMode_WAKE_MODE_ON_DATA, wake.OnConnect: api.WakeMode_WAKE_MODE_ON_CONNECT, wake.Never: api.WakeMode_WAKE_MODE_NEVER,
}

// show tells all about an app.
func (srv *Server) show(a *engine.App) *api.App {
	rec, op := a.Read()
	out := &api.App{
		Name: rec.Name, Status: statusCodes[rec.Now()], Endpoint: rec.Addr4.String(), Network: rec.Network,
		Args: rec.Spec.Process.Args, Pid: int32(rec.Process.PID),
		CreatedAt: timestamppb.New(rec.CreatedAt), StatusAt: timestamppb.New(rec.StatusAt),
		Wake:           showWake(rec.Wake, rec.WakeElsewhere),
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
	out.Awake, out.Alarm, out.WokenBy, out.CalledOff = a.WhyAwake(), showAlarm(&rec), showWokenBy(&rec), int32(rec.CalledOff)
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
		out.Hint = Hint(a.Noted())
	}
	if rec.Now() == app.Held {
		out.HeldSockets = int32(len(a.Endpoint.HeldInodes()))
	}
	if pids, err := a.Cgroup().PIDs(); err == nil {
		out.Processes, out.MemoryBytes = int32(len(pids)), sandbox.UsedBytes(pids)
	}
	if out.MemoryBytes == 0 { // it has no process
		out.MemoryBytes = a.Box.Cgroup().MemoryBytes()
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

func showWake(w wake.Policy, elsewhere string) *api.WakePolicy {
	p := &api.WakePolicy{Elsewhere: elsewhere, Mode: wakeModes[w.Mode], MinBytes: int32(w.MinBytes), Timers: w.Timers}
	for _, prefix := range w.Ignore {
		p.Ignore = append(p.Ignore, prefix.String())
	}
	if w.SilentAfter != 0 {
		p.SilentAfter = durationpb.New(max(0, w.SilentAfter))
	}
	return p
}

func showPages(p restore.Pages) api.RestoreMemory {
	if p == restore.Copy {
		return api.RestoreMemory_RESTORE_MEMORY_COPIED
	}
	return api.RestoreMemory_RESTORE_MEMORY_MAPPED
}

// showAlarm is the timer of a held app that expires first.
func showAlarm(r *app.Record) *api.Alarm {
	if r.Now() != app.Held && r.Now() != app.Waking || r.Alarm == nil {
		return nil
	}
	return &api.Alarm{At: timestamppb.New(r.Alarm.At), Timer: r.Alarm.Timer}
}

// showWokenBy is what woke an app last, unless it sleeps again.
func showWokenBy(r *app.Record) string {
	if r.Now() == app.Held {
		return ""
	}
	return string(r.WokenBy)
}

func showNotes(all []app.Note) []*api.Note {
	out := make([]*api.Note, len(all))
	for i, n := range all {
		out[i] = &api.Note{Text: n.Text, Remedy: n.Remedy}
	}
	return out
}

func showOutcomes(all []checkpoint.Outcome) []*api.SocketOutcome {
	out := make([]*api.SocketOutcome, len(all))
	for i, s := range all {
		out[i] = &api.SocketOutcome{Socket: s.Socket, Outcome: "reset", Reason: s.Reason}
		if s.Kept {
			out[i].Outcome = "kept"
		}
	}
	return out
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
	for i := range m.Memory {
		f := &m.Memory[i]
		if !f.Own() {
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
