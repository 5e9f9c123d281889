// Package metrics tells Prometheus what a daemon does and has.
//
// A [Metrics] counts the events of package event as they happen, and asks the daemon what
// there is whenever somebody reads the metrics. METRICS.md, at the top of the
// repository, lists them all. [Metrics.Start] serves them by HTTP on a unix socket, or
// on an address.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/snapctl/snapctl/runtime/event"
)

// seconds are the buckets of durations, from a hand-out to the saving of a large app.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Metrics counts events; it is an [event.Counter].
type Metrics struct {
	registry *prometheus.Registry

	operations *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	inProgress *prometheus.GaugeVec
	frozen     *prometheus.HistogramVec
	wakes      *prometheus.CounterVec
	clones     *prometheus.CounterVec
	exits      prometheus.Counter
	removals   prometheus.Counter
}

// New makes the metrics of a daemon of the given version. state is called whenever they
// are read.
func New(version string, state func() State) *Metrics {
	r := prometheus.NewRegistry()
	f := promauto.With(r)
	m := &Metrics{
		registry: r,
		operations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "snapctl_operations_total", Help: "Operations that have ended, by kind and outcome (ok or failed).",
		}, []string{"operation", "outcome"}),
		durations: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "snapctl_operation_duration_seconds", Help: "How long operations took that ended well.", Buckets: seconds,
		}, []string{"operation"}),
		inProgress: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "snapctl_operations_in_progress", Help: "Operations that have begun and not ended, those included that wait for another one.",
		}, []string{"operation"}),
		frozen: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "snapctl_freeze_duration_seconds", Help: "How long the processes of an app stood still while it was saved.", Buckets: seconds,
		}, []string{"operation"}),
		wakes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "snapctl_wakes_total", Help: "Hibernated apps that were woken, by what woke them.",
		}, []string{"reason"}),
		clones: f.NewCounterVec(prometheus.CounterOpts{
			Name: "snapctl_clones_total", Help: "Clones that were made, by source: handed out by the pool, or made at once.",
		}, []string{"source"}),
		exits:    f.NewCounter(prometheus.CounterOpts{Name: "snapctl_app_exits_total", Help: "Apps whose program has ended."}),
		removals: f.NewCounter(prometheus.CounterOpts{Name: "snapctl_app_removals_total", Help: "Apps that were removed."}),
	}
	f.NewGaugeVec(prometheus.GaugeOpts{Name: "snapctl_build_info", Help: "Always 1."}, []string{"version"}).WithLabelValues(version).Set(1)
	// A counter that is there from the beginning has a rate from the first event on.
	for _, k := range event.Kinds() {
		m.operations.WithLabelValues(string(k), ok)
		m.operations.WithLabelValues(string(k), failed)
	}
	m.clones.WithLabelValues(fromPool)
	m.clones.WithLabelValues(madeAtOnce)
	r.MustRegister(&collector{state: state})
	return m
}

// Values of labels.
const (
	ok, failed           = "ok", "failed"
	fromPool, madeAtOnce = "pool", "made"
)

// Count implements [event.Counter].
func (m *Metrics) Count(e *event.Event) {
	switch e.Type { //nolint:exhaustive // others are not counted
	case event.Begun:
		m.inProgress.WithLabelValues(string(e.Kind)).Inc()
	case event.Ended:
		m.ended(e)
	case event.Woken:
		m.wakes.WithLabelValues(e.Reason).Inc()
	case event.Exited:
		m.exits.Inc()
	case event.Removed:
		m.removals.Inc()
	}
}

func (m *Metrics) ended(e *event.Event) {
	kind := string(e.Kind)
	m.inProgress.WithLabelValues(kind).Dec()
	if e.Err != nil {
		m.operations.WithLabelValues(kind, failed).Inc()
		return
	}
	m.operations.WithLabelValues(kind, ok).Inc()
	m.durations.WithLabelValues(kind).Observe(e.Took.Seconds())
	if e.Frozen > 0 {
		m.frozen.WithLabelValues(kind).Observe(e.Frozen.Seconds())
	}
	switch e.Kind { //nolint:exhaustive // others make no clones
	case event.HandOut:
		m.clones.WithLabelValues(fromPool).Inc()
	case event.Clone:
		m.clones.WithLabelValues(madeAtOnce).Inc()
	}
}

// Handler answers with the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
