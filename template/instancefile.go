package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

// InstancePath is where a clone finds out who it is.
const InstancePath = "/run/snapctl/instance.json"

// InstanceVersion is the version of the document there. It changes only if a
// field goes or changes its meaning; fields may come.
const InstanceVersion = 1

// InstanceFile is the document at [InstancePath] in every clone. It is how a
// program learns that it has been copied.
//
// A program that must differ from its copies (its random numbers, its node id,
// its locks) reads it at its start, and then watches it: with inotify(7) on the
// directory for IN_MOVED_TO, for the file is replaced and not written into, or
// by reading it before each use of what must differ. If the generation is not
// the one it knows, it is another instance from here on, and reseeds.
type InstanceFile struct {
	SchemaVersion int    `json:"schema_version"`
	Name          string `json:"name"`     // the app's
	Number        int    `json:"number"`   // no other clone of the template has it
	Template      string `json:"template"` // its name
	Endpoint      string `json:"endpoint"` // the address by which others know it
	Endpoint6     string `json:"endpoint6,omitempty"`
	Hostname      string `json:"hostname"`
	// Generation is a random UUID that is new with every restore and every
	// clone, but not with a wake: a hibernated app stays the same instance.
	Generation string    `json:"generation"`
	CreatedAt  time.Time `json:"created_at"`
	// Parameters are those of the rules, but for secret ones.
	Parameters map[string]string `json:"parameters"`
}

// NewGeneration makes a generation: see [InstanceFile].
func NewGeneration() string { return newUUID() }

func (r *Rules) instanceFile(in Instance, hostname string, set map[string]string) InstanceFile {
	d := in.data(hostname, set)
	file := InstanceFile{
		SchemaVersion: InstanceVersion, Name: d.Name, Number: d.Number, Template: d.Template, Endpoint: d.Endpoint, Endpoint6: d.Endpoint6,
		Hostname: d.Hostname, Generation: d.Generation, CreatedAt: in.CreatedAt.UTC(), Parameters: make(map[string]string),
	}
	for key, value := range set {
		if !r.Parameters[key].Secret {
			file.Parameters[key] = value
		}
	}
	return file
}

// CheckInstance tells whether the file at [InstancePath] could be written below the root
// directory of an app, as [InstanceFile.Write] does in each copy of it. open are files that
// the app's processes have open, as they see them: they could not be replaced. It changes
// nothing.
func CheckInstance(root string, open []string) (err error) {
	fail := func(err error) error {
		return fmt.Errorf("%s, by which a copy of the app learns who it is, can't be written: %w", InstancePath, err)
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fail(err)
	}
	defer dir.Close() //nolint:errcheck // a handle
	t := cloneTree{root: dir}
	where, err := t.resolve(InstancePath, followLast)
	if err != nil {
		return fail(err)
	}
	if err := t.own(where); err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(open, func(name string) bool { return path.Clean(name) == where }) {
		return fail(errors.New("a process has it open: let the program close it when it has read it"))
	}
	want := fs.FileMode.IsRegular
	for at := where; at != "/"; at = path.Dir(at) {
		info, err := t.root.Lstat(local(at))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fail(err)
		case !want(info.Mode()):
			return fail(fmt.Errorf("%s is something else: remove it", at))
		default:
			return nil
		}
		want = fs.FileMode.IsDir
	}
	return nil
}

// Write puts the document below root, a clone's root directory, readable by all.
// It replaces the file, so a reader sees the old one or the new. Write it before
// the processes go on, so that they can't read of another clone. If that is before
// they are restored, write it once more afterwards: an inotify watch that was saved
// sees only what happens then.
func (f InstanceFile) Write(root string) (err error) {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", InstancePath, err)
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("write %s: %w", InstancePath, err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	mode := os.FileMode(0o644)
	t := cloneTree{root: dir}
	return t.write(PlannedFile{Path: InstancePath, Mode: &mode, Owner: rootOwner, Content: append(text, '\n')})
}
