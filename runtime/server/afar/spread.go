package afar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
)

// askTimeout is how long a host may take to say how much memory it has available. One that does not makes no clones.
const askTimeout = 5 * time.Second

// soon is as long if an app waits for the answer.
const soon = time.Second

// spread has all hosts that are alive make clones. Each makes all of its part, or none, unless the request says to keep
// going; what one host has made stays if another one fails.
func (s *Service) spread(req *api.CloneRequest, stream grpc.ServerStreamingServer[api.CloneEvent]) error {
	began := time.Now()
	if _, err := s.ShowTemplate(stream.Context(), &api.TemplateRequest{Name: req.GetTemplate()}); err != nil {
		return err
	}
	places, next, notes, err := s.places(stream.Context(), req.GetTemplate())
	if err != nil {
		return err
	}
	parts := divide(places, countOf(req))
	start := int(req.GetStart())
	if start == 0 {
		start = max(next, int(req.GetLeast()))
	}
	assign(req, parts, start)
	r := &report{send: stream.Send, total: &api.CloneSummary{Notes: notes}}
	var wg sync.WaitGroup
	for _, one := range parts {
		ctx, p := begin(stream.Context(), req.GetTimeout())
		defer p.end()
		wg.Go(func() {
			var results []*api.CloneEvent
			summary, err := s.make(ctx, p, one, func(e *api.CloneEvent) error {
				if e.GetResult() == nil || req.GetKeepGoing() {
					return r.tell(e)
				}
				results = append(results, e) // it may yet be undone
				return nil
			})
			if err != nil {
				s.failed(r, one, err)
				return
			}
			r.made(results, summary)
		})
	}
	wg.Wait()
	if err := stream.Context().Err(); err != nil {
		return err
	}
	r.total.TotalUs = time.Since(began).Microseconds()
	return stream.Send(&api.CloneEvent{Event: &api.CloneEvent_Summary{Summary: r.total}})
}

// places are the hosts that are alive, those with most memory first; and next is the number after the highest one of
// the template's clones on them. Notes tell of hosts that are alive and do not answer.
func (s *Service) places(ctx context.Context, template string) (places []place, next int, notes []string, err error) {
	all, err := s.hosts(ctx)
	if err != nil {
		return nil, 0, nil, err
	}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, host := range all {
		wg.Go(func() {
			memory, number, err := s.look(ctx, host, template)
			mu.Lock()
			defer mu.Unlock()
			next = max(next, number)
			if err != nil {
				notes = append(notes, fmt.Sprintf("host %s makes none: %s", host, strings.TrimPrefix(status.Convert(s.opt.Status(err)).Message(), "host "+host+": ")))
				return
			}
			places = append(places, place{host, memory})
		})
	}
	wg.Wait()
	if len(places) == 0 {
		return nil, 0, nil, fmt.Errorf("no host answers: %s", strings.Join(notes, "; "))
	}
	slices.Sort(notes)
	slices.SortFunc(places, func(a, b place) int {
		if a.memory != b.memory {
			return int(max(-1, min(1, b.memory-a.memory)))
		}
		return strings.Compare(a.host, b.host)
	})
	return places, next, notes, nil
}

// hosts are the names of the hosts that are alive and take apps: this one does.
func (s *Service) hosts(ctx context.Context) ([]string, error) {
	res, err := s.ListHosts(ctx, &api.ListRequest{})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, h := range res.GetHosts() {
		if h.GetHealth() == api.HostHealth_HOST_HEALTH_UP && (!h.GetCordoned() || h.GetSelf()) {
			all = append(all, h.GetName())
		}
	}
	if len(all) == 0 { // in no installation
		all = []string{s.opt.Hosts.Self()}
	}
	return all, nil
}

// Available tells how many bytes of memory a host has available. It is asked for a short time only.
func (s *Service) Available(ctx context.Context, host string) (int64, error) {
	memory, _, err := s.look(ctx, host, "")
	return memory, err
}

// look tells how much memory a host has available, and the next number of a clone of a template there, if it is told
// one.
func (s *Service) look(ctx context.Context, host, template string) (memory int64, next int, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if !s.elsewhere(host) {
		facts, err := s.ShowFacts(ctx, &api.HostFactsRequest{})
		if err != nil || template == "" {
			return facts.GetAvailableMemoryBytes(), 0, err
		}
		t, err := s.ShowTemplate(ctx, &api.TemplateRequest{Name: template})
		if errdefs.IsNotFound(err) {
			err = nil
		}
		return facts.GetAvailableMemoryBytes(), int(t.GetNextNumber()), err
	}
	c, err := s.opt.Hosts.Dial(ctx, host)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close() //nolint:errcheck // it says that it was closed before
	there := api.NewSnapctlClient(c)
	facts, err := there.ShowFacts(ctx, &api.HostFactsRequest{})
	if err != nil {
		return 0, 0, answered(host, err, nil)
	}
	if template == "" {
		return facts.GetAvailableMemoryBytes(), 0, nil
	}
	t, err := there.ShowTemplate(ctx, &api.TemplateRequest{Name: template})
	if err != nil && status.Code(err) != codes.NotFound {
		return 0, 0, answered(host, err, nil)
	}
	return facts.GetAvailableMemoryBytes(), int(t.GetNextNumber()), nil
}
