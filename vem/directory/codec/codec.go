// Package codec writes and reads the records of the directory: JSON with a version.
package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// version is that of all records which this version of snapctl writes. A record only
// gains fields within a version; whoever reads it leaves out those that it does not know.
const version = 1

// MaxSize is how many bytes of a record are read. The largest is that of a host.
const MaxSize = 64 << 10

// ErrNewer is a record that a newer version of snapctl has written.
var ErrNewer = errors.New("a newer version of snapctl has written it: bring this host up to the version of the others")

// ErrRecord is a record that nothing can be made of.
var ErrRecord = errors.New("the record is damaged, or was not written by snapctl")

// Record is what an entry's value says.
type Record interface {
	// Validate returns an error if this can't be the record of an entry with that name. Records
	// of other hosts are as foreign as any other input.
	Validate(name string) error
}

// Encode returns the value of a record.
func Encode(r Record) ([]byte, error) {
	fields, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b := fmt.Appendf(nil, `{"version":%d`, version)
	if len(fields) > 2 {
		b = append(b, ',')
	}
	return append(b, fields[1:]...), nil
}

// Decode reads the value of the entry that is called name into r. It returns an error wrapping
// [ErrNewer] or [ErrRecord].
func Decode(name string, value []byte, r Record) error {
	if len(value) > MaxSize {
		return fmt.Errorf("read directory record %s: %w: %d bytes", name, ErrRecord, len(value))
	}
	var head struct {
		Version int `json:"version"`
	}
	err := json.Unmarshal(value, &head)
	switch {
	case err == nil && head.Version > version:
		return fmt.Errorf("read directory record %s: version %d, this snapctl reads %d: %w", name, head.Version, version, ErrNewer)
	case err == nil && head.Version < 1:
		err = errors.New("it has no version")
	case err == nil:
		err = json.Unmarshal(value, r)
	}
	if err == nil {
		err = r.Validate(name)
	}
	if err != nil {
		return fmt.Errorf("read directory record %s: %w: %w", name, ErrRecord, err)
	}
	return nil
}

// named is what may be part of a key, and what people may call a host, network or app.
var named = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// CheckName returns an error if a thing can't be called that.
func CheckName(what, s string) error {
	if !named.MatchString(s) {
		return fmt.Errorf("%s name %q: up to 128 letters, digits, '_', '.' and '-', the first a letter or digit", what, s)
	}
	return nil
}
