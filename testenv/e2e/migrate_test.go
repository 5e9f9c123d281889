package e2e

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
)

// migrated is what snapctl migrate prints.
type migrated struct {
	App, From, Host string
	SentBytes       int64 `json:"sent_bytes"`
	SavedBytes      int64 `json:"saved_bytes"`
	PauseUS         int64 `json:"pause_us"`
	StoodUS         int64 `json:"stood_us"`
	Connections     int
	Lost            []struct{ Socket, Reason string }
	Notes           []string
	Trouble         string
}

// migrate moves an app.
func (hs *hosts) migrate(app string, from, to *World, flags ...string) migrated {
	hs.t.Helper()
	r := from.CLI(append([]string{"migrate", app, "--to", to.Name(), "-o", "json"}, flags...)...)
	var m migrated
	qt.Check(hs.t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr)) // also on other goroutines than the test's
	if r.Code == 0 {
		qt.Check(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &m)))
	}
	hs.t.Logf("%s: %+v", app, m)
	return m
}

// TestMigrateRedis moves a Redis that runs, and one that sleeps, back and forth.
func TestMigrateRedis(t *testing.T) {
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	endpoint := alpha.Run(redisRequest("cache", "")).GetEndpoint()
	alpha.Run(redisRequest("near", ""))
	beta.Run(redisRequest("far", ""))
	alpha.asks("near", endpoint, "OK", "SET", "where", "alpha")
	beta.asks("far", endpoint, "alpha", "GET", "where")

	m := hs.migrate("cache", alpha, beta)
	qt.Check(t, qt.Equals(m.Host, "beta"))
	qt.Check(t, qt.Equals(m.Trouble, ""))
	qt.Check(t, qt.Equals(alpha.CLI("show", "cache").Code, 4))
	qt.Check(t, qt.Equals(beta.Show("cache").GetStatus(), api.Status_STATUS_RUNNING))
	qt.Check(t, qt.StringContains(beta.OK("logs", "cache"), "Ready to accept connections")) // as it said on the other host
	alpha.asks("near", endpoint, "alpha", "GET", "where")
	beta.asks("far", endpoint, "OK", "SET", "where", "beta")
	beta.owner(endpoint, "beta")

	beta.Hibernate("cache")
	m = hs.migrate("cache", beta, alpha)
	qt.Check(t, qt.Equals(m.Trouble, ""))
	qt.Check(t, qt.Equals(alpha.Show("cache").GetStatus(), api.Status_STATUS_HELD))
	beta.asks("far", endpoint, "beta", "GET", "where") // wakes it
	alpha.owner(endpoint, "alpha")
}

// TestMigrateUnderTraffic moves two apps at a time around three hosts, whose apps are all connected with each other:
// often, with a thousand connections, if [Rounds] is set.
func TestMigrateUnderTraffic(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, "alpha", "beta", "gamma")
	connections, n := 10, rounds(t, 4)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(4+n)*time.Minute)
	defer cancel()
	if n > 4 {
		connections = 170
	}
	members := []traffic.Member{hs.endpoint(0), hs.endpoint(1), hs.endpoint(2)}
	hs.know(members, hs.worlds...)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, connections, 2), Pattern: peer.Pattern{MaxPause: 20 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	for round := range n {
		var both sync.WaitGroup
		for i := range 2 {
			from, to := hs.worlds[(i+round)%3], hs.worlds[(i+round+1)%3]
			app := "peer-" + members[i].Name
			both.Go(func() {
				m := hs.migrate(app, from, to)
				qt.Check(t, qt.Equals(m.Trouble, ""))
				qt.Check(t, qt.HasLen(m.Lost, 0))
				mesh.Reach(members[i].Name, to)
			})
		}
		both.Wait()
		if t.Failed() {
			t.FailNow()
		}
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	}
	hs.unharmed(ctx, mesh)
}
