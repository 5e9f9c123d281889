package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/snapctl/snapctl/snapshot/criu"
)

// PrivateCRIU is where scripts/deps installs a CRIU of its own, if the
// distribution's is too old.
const PrivateCRIU = "/usr/local/lib/snapctl/criu/bin/criu"

// ErrNoCRIU is a host without a CRIU that is new enough.
var ErrNoCRIU = errors.New("no usable CRIU")

// FindCRIU returns the first of the programs that is new enough, and its
// version. Returns an error wrapping ErrNoCRIU that says what was found.
func FindCRIU(ctx context.Context, candidates ...string) (string, int, error) {
	var found []error
	for _, c := range candidates {
		path, err := exec.LookPath(c)
		if err != nil {
			found = append(found, err)
			continue
		}
		v, err := (criu.Client{Path: path}).Version(ctx)
		if err == nil && v >= criu.MinVersion {
			return path, v, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is version %s", path, versionText(v))
		}
		found = append(found, err)
	}
	return "", 0, fmt.Errorf("%w: snapctl needs %s or newer, run scripts/deps criu: %w", ErrNoCRIU, versionText(criu.MinVersion), errors.Join(found...))
}
