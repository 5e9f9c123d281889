package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// rounds is how often a test repeats what it draws: n times, or as [Rounds] says.
func rounds(t *testing.T, n int) int {
	t.Helper()
	if text := os.Getenv(Rounds); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		qt.Assert(t, qt.IsNil(err))
	}
	return n
}

// seeded is chance that can be repeated: SNAPCTL_TEST_SEED is its seed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("SNAPCTL_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		qt.Assert(t, qt.IsNil(err))
	}
	t.Logf("SNAPCTL_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// pause lets a random time go by: the moment of what follows is the test.
func (w *World) pause(random *rand.Rand, most time.Duration) {
	timer := time.NewTimer(time.Duration(random.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
	}
}
