// Package remote drives the traffic of package peer from afar: a test tells peers
// in apps and on other hosts to whom to connect, when to pause and when to end, and
// gets their reports.
//
//	test                                  peer program, in an app
//	Client.Begin(id, target)  -- HTTP --> peer.Dial, one load for each id
//	Client.Pause, Resume                  its valve
//	Client.Report(id), End(id)            peer.Report
//
// A request is a connection of its own, so that a peer can be frozen or moved between
// two of them.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/snapctl/snapctl/testenv/peer"
)

// order is what a request asks for.
type order struct {
	ID          string        `json:"id,omitempty"`
	Address     string        `json:"address,omitempty"`
	Connections int           `json:"connections,omitempty"`
	Flows       int           `json:"flows,omitempty"`
	MaxChunk    int           `json:"max_chunk_bytes,omitempty"`
	MaxPause    time.Duration `json:"max_pause_ns,omitempty"`
	Window      int           `json:"window,omitempty"`
	Within      time.Duration `json:"within_ns,omitempty"`
}

// result is the answer. Error is that of the operation itself.
type result struct {
	Report *peer.Report `json:"report,omitempty"`
	Error  string       `json:"error,omitempty"`
}

const (
	headerTime = 10 * time.Second
	dialTime   = time.Minute     // for all connections of a load, if the request says nothing
	maxOrder   = 64 << 10        // bytes
	maxResult  = 64 << 20        // bytes
	breakTime  = 5 * time.Second // for requests under way when Serve ends
)

// Server obeys. The zero value is not ready: make one by NewServer.
type Server struct {
	valve *peer.Valve
	dial  peer.Dialer
	log   *slog.Logger

	mu    sync.Mutex
	loads map[string]*peer.Load // nil: being made
}

// NewServer makes a server whose loads connect by dial, and pause by valve.
func NewServer(dial peer.Dialer, valve *peer.Valve, log *slog.Logger) *Server {
	return &Server{valve: valve, dial: dial, log: log, loads: make(map[string]*peer.Load)}
}

// Serve answers until ctx ends, and then breaks off all loads. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	for path, do := range map[string]func(context.Context, order) (*peer.Report, error){
		"POST /begin":  s.begin,
		"POST /end":    s.end,
		"POST /report": s.report,
		"POST /pause":  func(context.Context, order) (*peer.Report, error) { s.valve.Shut(); return nil, nil },
		"POST /resume": func(context.Context, order) (*peer.Report, error) { s.valve.Open(); return nil, nil },
	} {
		mux.HandleFunc(path, s.handler(do))
	}
	web := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTime, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	web.SetKeepAlivesEnabled(false)
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(l) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), breakTime)
		defer cancel()
		if web.Shutdown(late) != nil {
			err = web.Close()
		}
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
	}
	s.mu.Lock()
	loads := s.loads
	s.loads = nil
	s.mu.Unlock()
	for _, load := range loads {
		if load != nil {
			load.Close()
		}
	}
	return err
}

func (s *Server) handler(do func(context.Context, order) (*peer.Report, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder)).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if o.Within <= 0 {
			o.Within = dialTime
		}
		// What was begun goes on if the client hangs up: it asks again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), o.Within)
		defer cancel()
		var res result
		report, err := do(ctx, o)
		res.Report = report
		if err != nil {
			res.Error = err.Error()
		}
		if err := json.NewEncoder(w).Encode(res); err != nil {
			s.log.WarnContext(ctx, "send answer", slog.Any("error", err))
		}
	}
}

// begin makes a load. It does nothing if there is one of this id.
func (s *Server) begin(ctx context.Context, o order) (*peer.Report, error) {
	s.mu.Lock()
	_, taken := s.loads[o.ID]
	closed := s.loads == nil
	if !taken && !closed {
		s.loads[o.ID] = nil
	}
	s.mu.Unlock()
	if taken || closed {
		return nil, nil
	}
	load, err := peer.Dial(ctx, s.dial, peer.Target{
		TCP: o.Address, Connections: o.Connections, UDP: o.Address, Flows: o.Flows, Valve: s.valve,
		Pattern: peer.Pattern{MaxChunk: o.MaxChunk, MaxPause: o.MaxPause, Window: o.Window},
	})
	s.mu.Lock()
	closed = s.loads == nil
	if err != nil {
		delete(s.loads, o.ID)
	} else if !closed {
		s.loads[o.ID] = load
	}
	s.mu.Unlock()
	if err == nil && closed {
		load.Close()
	}
	return nil, err
}

// load returns that of an id.
func (s *Server) load(o order) (*peer.Load, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	load := s.loads[o.ID]
	if load == nil {
		return nil, fmt.Errorf("there is no load %q", o.ID)
	}
	return load, nil
}

func (s *Server) report(_ context.Context, o order) (*peer.Report, error) {
	load, err := s.load(o)
	if err != nil {
		return nil, err
	}
	r := load.Report()
	return &r, nil
}

// end stops a load, which stays for those who ask again. Its faults are in the report.
func (s *Server) end(ctx context.Context, o order) (*peer.Report, error) {
	load, err := s.load(o)
	if err != nil {
		return nil, err
	}
	_, _ = load.Stop(ctx)
	r := load.Report()
	return &r, nil
}

// Client tells a server what to do. Its methods may be called at the same time.
type Client struct {
	address string
	web     *http.Client
}

// NewClient makes a client of the server at an address, which it connects to by dial.
// It takes no resources.
func NewClient(dial peer.Dialer, address string) *Client {
	return &Client{address: address, web: &http.Client{Transport: &http.Transport{
		DialContext: dial.DialContext, DisableKeepAlives: true,
	}}}
}

// Begin has the server make a load: connections and flows to where a peer serves
// both. It may be called again with the same id, and does nothing then.
func (c *Client) Begin(ctx context.Context, id string, to peer.Target) error {
	_, err := c.ask(ctx, "begin", order{
		ID: id, Address: to.TCP, Connections: to.Connections, Flows: to.Flows,
		MaxChunk: to.Pattern.MaxChunk, MaxPause: to.Pattern.MaxPause, Window: to.Pattern.Window,
	})
	return err
}

// Report returns what a load has seen so far.
func (c *Client) Report(ctx context.Context, id string) (peer.Report, error) {
	return c.ask(ctx, "report", order{ID: id})
}

// End ends a load in order, as far as it can until ctx's deadline, and returns what it
// saw in all. Faults are in the report. It may be called again.
func (c *Client) End(ctx context.Context, id string) (peer.Report, error) {
	o := order{ID: id}
	if at, ok := ctx.Deadline(); ok {
		o.Within = time.Until(at) * 9 / 10 // the rest is for the answer
	}
	return c.ask(ctx, "end", o)
}

// Pause has the server's process send nothing more, and Resume ends that.
func (c *Client) Pause(ctx context.Context) error {
	_, err := c.ask(ctx, "pause", order{})
	return err
}

// Resume is described at Pause.
func (c *Client) Resume(ctx context.Context) error {
	_, err := c.ask(ctx, "resume", order{})
	return err
}

func (c *Client) ask(ctx context.Context, what string, o order) (peer.Report, error) {
	r, err := c.do(ctx, what, o)
	if err != nil {
		return peer.Report{}, fmt.Errorf("ask peer at %s to %s: %w", c.address, what, err)
	}
	return r, nil
}

func (c *Client) do(ctx context.Context, what string, o order) (r peer.Report, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.address+"/"+what, bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		text, rerr := io.ReadAll(io.LimitReader(resp.Body, maxOrder))
		return r, errors.Join(fmt.Errorf("%s: %s", resp.Status, text), rerr)
	}
	var res result
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxResult)).Decode(&res); err != nil {
		return r, fmt.Errorf("read answer: %w", err)
	}
	if res.Error != "" {
		return r, errors.New(res.Error)
	}
	if res.Report != nil {
		r = *res.Report
	}
	return r, nil
}
