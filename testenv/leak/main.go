package leak

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// Main runs the tests of a package, for its TestMain, and fails if they left something
// in their own process. It returns the exit code.
func Main(m *testing.M) int {
	before, err := Take()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) //nolint:forbidigo // a main function
	defer cancel()
	left, err := Wait(ctx, before)
	if err != nil || len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left behind:", left, err)
		return 1
	}
	return code
}
