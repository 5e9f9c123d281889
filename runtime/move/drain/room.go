package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/move"
)

// RoomKind is the kind of the streams by which a host asks another one how much room it has.
const RoomKind = "room"

// room is what a host has for apps of others.
type room struct {
	AvailableBytes int64  `json:"available_bytes"`   // of memory
	Refusal        string `json:"refusal,omitempty"` // why it takes none
}

// errMalformed is an answer of another host that is none.
var errMalformed = errors.New("malformed answer about room")

// ServeRoom tells another host how much room this one has.
func (d *Drainer) ServeRoom(ctx context.Context, _ string, s move.Stream) error {
	var r room
	var err error
	if r.AvailableBytes, err = memoryAvailable(); err != nil {
		return err
	}
	if why := d.opt.Hosts.TakesApps(ctx); why != nil {
		r.Refusal = why.Error()
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.Send(b)
}

// answerTime is how long another host may take to tell how much room it has.
const answerTime = 5 * time.Second

// askRoom asks a host how much room it has.
func (d *Drainer) askRoom(ctx context.Context, host string) (room, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := d.opt.Hosts.Open(ctx, host, RoomKind)
	if err != nil {
		return room{}, err
	}
	defer s.Close()
	b, err := s.Recv()
	if err != nil {
		return room{}, err
	}
	return parseRoom(b)
}

func parseRoom(b []byte) (r room, err error) {
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if r.AvailableBytes < 0 {
		return r, fmt.Errorf("%w: %d bytes are available", errMalformed, r.AvailableBytes)
	}
	return r, nil
}

// memoryAvailable is how much memory the kernel could give to programs without swapping: MemAvailable of
// proc_meminfo(5).
func memoryAvailable() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo does not tell how much memory is available")
}
