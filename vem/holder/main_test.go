package holder_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/snapctl/snapctl/vem/holder"
)

// TestMain makes the test binary play the holder, and the clients that are
// killed in the middle of a Put.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // a main function
	defer stop()
	var err error
	switch os.Args[1] {
	case "holder": // holder --socket PATH
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		err = holder.Run(ctx, os.Args[3], log)
	case "putter": // putter PATH APP COUNT
		err = putForever(ctx, os.Args[2], os.Args[3], os.Args[4])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
