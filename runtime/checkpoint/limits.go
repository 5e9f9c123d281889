package checkpoint

import (
	"log/slog"

	"github.com/snapctl/snapctl/runtime/cgroup"
)

// makeRoom raises the app's limits for a restore, that an app which used all it
// may could not be restored under, and returns a function that puts them back.
// If the daemon dies in between, the next one does, when it prepares the sandbox.
func (t *Tools) makeRoom(s *Subject) (tighten func(), err error) {
	if s.Box.Spec.Linux == nil {
		return func() {}, nil
	}
	limits := s.Box.Spec.Linux.Resources
	roomy := cgroup.Roomy(limits)
	if roomy == nil {
		return func() {}, nil
	}
	if err := s.Box.Cgroup().SetLimits(roomy); err != nil {
		return nil, err
	}
	return func() {
		if err := s.Box.Cgroup().SetLimits(limits); err != nil {
			// The app has used the room already: cgroup v1 sets no limit
			// that is less than what is in use.
			s.Failed(err)
			t.Log.Error("limit app", slog.String("app", s.Name), slog.Any("error", err))
		}
	}, nil
}
