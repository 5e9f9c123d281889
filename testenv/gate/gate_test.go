package gate_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
)

// TestMain lets this test binary be a process with two points.
func TestMain(m *testing.M) {
	if os.Getenv(fault.Env) != "" {
		ctx := context.Background() //nolint:forbidigo // this is the main function of a process
		if fault.Point(ctx, "wake.starting") != nil || fault.Point(ctx, "wake.restored") != nil {
			os.Exit(3)
		}
		return
	}
	os.Exit(m.Run())
}

func start(t *testing.T, faults ...gate.Fault) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), gate.Env(faults...)...)
	qt.Assert(t, qt.IsNil(cmd.Start()))
	return cmd
}

func TestPlans(t *testing.T) {
	tests := map[string]struct {
		fault gate.Fault
		want  string
	}{
		"kill":           {gate.Kill("wake.restored"), "signal: killed"},
		"fail":           {gate.Fail("wake.starting"), "exit status 3"},
		"somewhere else": {gate.Kill("hibernate.dumped"), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := start(t, tt.fault, gate.Fail("remove.killed")).Wait()
			if tt.want == "" {
				qt.Check(t, qt.IsNil(err))
				return
			}
			qt.Check(t, qt.ErrorMatches(err, tt.want))
		})
	}
}

func TestGate(t *testing.T) {
	tests := map[string]struct {
		letGo func(context.Context, *gate.Stop, *exec.Cmd) error
		want  string
	}{
		"continue": {letGo: func(_ context.Context, s *gate.Stop, _ *exec.Cmd) error { return s.Continue() }},
		"fail": {
			letGo: func(_ context.Context, s *gate.Stop, _ *exec.Cmd) error { return s.Fail() },
			want:  "exit status 3",
		},
		"kill": {
			letGo: func(ctx context.Context, s *gate.Stop, _ *exec.Cmd) error { return s.Kill(ctx) },
			want:  "signal: killed",
		},
		"killed by the test": {
			letGo: func(ctx context.Context, s *gate.Stop, cmd *exec.Cmd) error {
				if err := cmd.Process.Kill(); err != nil {
					return err
				}
				return s.Gone(ctx)
			},
			want: "signal: killed",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := gate.New(t, t.TempDir(), "wake.restored")
			// Nobody is there yet, and the gate still works afterwards.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err := g.Wait(ctx)
			qt.Check(t, qt.ErrorIs(err, context.DeadlineExceeded))

			cmd := start(t, g.Fault())
			stop, err := g.Wait(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(tt.letGo(t.Context(), stop, cmd)))
			err = cmd.Wait()
			if tt.want == "" {
				qt.Check(t, qt.IsNil(err))
				return
			}
			qt.Check(t, qt.ErrorMatches(err, tt.want))
		})
	}
}
