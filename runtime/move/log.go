package move

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// mostLog bounds what goes with an app of what it has printed, in bytes.
const mostLog = 256 << 10

// lastLog returns the last whole lines of a log; nothing if there is none.
func lastLog(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	from := max(0, info.Size()-mostLog)
	b, err := io.ReadAll(io.NewSectionReader(f, from, mostLog))
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if from > 0 {
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return b, nil
}

// beginLog has the log of an app that has come begin with what it printed on the other host.
func beginLog(path string, b []byte) error {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}
