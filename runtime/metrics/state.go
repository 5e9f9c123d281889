package metrics

import "github.com/prometheus/client_golang/prometheus"

// State is what a daemon has at one moment.
type State struct {
	Apps        map[string]int // by status
	HeldSockets int
	Memory      Shared // memory files
	Files       Shared // storage layers
	Pools       map[string]Pool
}

// Shared is how much apps use of something that several may use.
type Shared struct {
	UsedBytes   int64 // of all apps together: what n of them use counts n times
	StoredBytes int64 // the same, each once
}

// Pool is the pool of one template.
type Pool struct{ Size, Ready int }

// collector turns a state into metrics.
type collector struct{ state func() State }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	apps         = desc("snapctl_apps", "Apps, by status.", "status")
	heldSockets  = desc("snapctl_held_sockets", "Sockets that are held for hibernated apps.")
	memoryUsed   = desc("snapctl_memory_used_bytes", "Saved memory that apps use; what several share counts for each.")
	memoryStored = desc("snapctl_memory_stored_bytes", "Saved memory that apps use; what several share counts once.")
	filesUsed    = desc("snapctl_files_used_bytes", "Storage layers that apps have; what several share counts for each.")
	filesStored  = desc("snapctl_files_stored_bytes", "Storage layers that apps have; what several share counts once.")
	poolSize     = desc("snapctl_pool_size", "Clones that are to stand ready, by template.", "template")
	poolReady    = desc("snapctl_pool_ready", "Clones that stand ready, by template.", "template")
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{apps, heldSockets, memoryUsed, memoryStored, filesUsed, filesStored, poolSize, poolReady} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.state()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for status, n := range s.Apps {
		gauge(apps, float64(n), status)
	}
	gauge(heldSockets, float64(s.HeldSockets))
	gauge(memoryUsed, float64(s.Memory.UsedBytes))
	gauge(memoryStored, float64(s.Memory.StoredBytes))
	gauge(filesUsed, float64(s.Files.UsedBytes))
	gauge(filesStored, float64(s.Files.StoredBytes))
	for template, p := range s.Pools {
		gauge(poolSize, float64(p.Size), template)
		gauge(poolReady, float64(p.Ready), template)
	}
}
