package criu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
)

// Private is where scripts/deps installs a CRIU of its own, if the
// distribution's is too old.
const Private = "/usr/local/lib/snapctl/criu/bin/criu"

// ErrNone is a host without a CRIU that is new enough.
var ErrNone = errors.New("no usable CRIU")

// Find returns the first of the programs that is new enough, and its version;
// without any it tries criu of PATH and [Private]. Returns an error wrapping
// [ErrNone] that says what was found.
func Find(ctx context.Context, candidates ...string) (string, int, error) {
	if len(candidates) == 0 {
		candidates = []string{"criu", Private}
	}
	var found []error
	for _, c := range candidates {
		path, err := exec.LookPath(c)
		if err != nil {
			found = append(found, err)
			continue
		}
		v, err := (Client{Path: path}).Version(ctx)
		if err == nil && v >= MinVersion {
			return path, v, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is version %s", path, VersionText(v))
		}
		found = append(found, err)
	}
	return "", 0, fmt.Errorf("%w: snapctl needs %s or newer, run scripts/deps criu: %w", ErrNone, VersionText(MinVersion), errors.Join(found...))
}

// VersionText writes a version as people do, "4.2.1"; "" for 0.
func VersionText(v int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}
