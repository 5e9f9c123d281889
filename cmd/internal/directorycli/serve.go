package directorycli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"github.com/snapctl/snapctl/vem/directory/member"
)

// What package member reads in the log.
const (
	started = member.Started
	serves  = member.Serves
	told    = member.Told
)

// serve runs the member until ctx ends or it fails. Where the disk is full, etcd ends the process
// itself, with a line in the log (zap's Fatal).
func serve(ctx context.Context, c member.Config, claim *member.Claim, log *slog.Logger) error {
	log.InfoContext(ctx, started, slog.String("name", c.Name), slog.String("dir", c.Dir))
	if err := claim.Check(); err != nil {
		return err
	}
	conf, err := settings(c)
	if err != nil {
		return err
	}
	doors, err := openDoors(ctx, c)
	if err != nil {
		return err
	}
	defer doors.close()
	wal.SegmentSizeBytes = c.LogFileBytes
	e, err := embed.StartEtcd(conf)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer e.Close()
	if err := enterRestoration(ctx, c, e, log); err != nil {
		return err
	}
	end, err := doors.stand(ctx, c, e.Server, log)
	if err != nil {
		return err
	}
	defer end()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	case <-e.Server.StopNotify():
		return errors.New("etcd stopped before it served")
	case <-ctx.Done():
		return nil
	}
	if err := claim.Serves(e.Server.Cluster().ID().String(), e.Server.MemberID().String()); err != nil {
		return err
	}
	log.InfoContext(ctx, serves, slog.String("name", c.Name))
	select {
	case err := <-e.Err():
		return err
	case <-e.Server.StopNotify():
		return errors.New("etcd stopped")
	case <-ctx.Done():
		log.InfoContext(ctx, told)
		return nil
	}
}

// settings are those of etcd's server (3.7).
func settings(c member.Config) (*embed.Config, error) {
	conf := embed.NewConfig()
	conf.Name, conf.Dir = c.Name, c.DataDir()
	for _, set := range []struct {
		to   *[]url.URL
		from []string
	}{
		{&conf.ListenClientUrls, c.ListenClient},
		{&conf.ListenPeerUrls, c.ListenPeer},
		{&conf.AdvertiseClientUrls, c.AdvertiseClient},
		{&conf.AdvertisePeerUrls, c.AdvertisePeer},
	} {
		urls, err := parse(set.from)
		if err != nil {
			return nil, err
		}
		*set.to = urls
	}
	conf.ClientTLSInfo, conf.PeerTLSInfo = files(c.ClientTLS), files(c.PeerTLS)
	if c.Installation() != "" {
		// The guard does the TLS of clients, and of other members that connect; that of this member
		// when it connects to others is etcd's. Of a unix socket of members, etcd takes the host alone
		// (configurePeerListeners in its embed/etcd.go).
		conf.ListenClientUrls, conf.ClientTLSInfo = []url.URL{{Scheme: "unix", Host: c.ClientSocket()}}, transport.TLSInfo{}
		conf.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: c.PeerSocket()}}
	}
	conf.TlsMinVersion = "TLS1.3"
	conf.InitialCluster, conf.InitialClusterToken = cluster(c.Cluster), c.Token
	conf.ClusterState = embed.ClusterStateFlagNew
	if c.Join {
		conf.ClusterState = embed.ClusterStateFlagExisting
	}
	conf.QuotaBackendBytes = c.QuotaBytes
	conf.AutoCompactionMode = embed.CompactorModePeriodic
	conf.AutoCompactionRetention = (time.Duration(c.HistorySeconds) * time.Second).String()
	conf.TickMs, conf.ElectionMs = uint(c.TickMillis), 10*uint(c.TickMillis)
	conf.PreVote = true
	conf.StrictReconfigCheck = true
	conf.EnableGRPCGateway = false
	// How far a quiet watch is, lest it asks for a forgotten revision after a lost connection.
	conf.WatchProgressNotifyInterval = time.Minute
	conf.Logger, conf.LogLevel, conf.LogOutputs = "zap", "info", []string{embed.StdErrLogOutput}
	return conf, nil
}

func parse(list []string) ([]url.URL, error) {
	urls := make([]url.URL, len(list))
	for i, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		urls[i] = *u
	}
	return urls, nil
}

func files(t *member.TLS) transport.TLSInfo {
	if t == nil {
		return transport.TLSInfo{}
	}
	return transport.TLSInfo{
		CertFile: t.CertFile, KeyFile: t.KeyFile, TrustedCAFile: t.CAFile, ServerName: t.ServerName,
		ClientCertAuth: true,
		// Else a peer's certificate must have the address that it comes from, and hosts have several.
		SkipClientSANVerify: true,
	}
}

// cluster is a list of members as etcd wants it: NAME=URL,NAME=URL.
func cluster(peers []member.Peer) string {
	var list []string
	for _, p := range peers {
		for _, u := range p.URLs {
			list = append(list, p.Name+"="+u)
		}
	}
	return strings.Join(list, ",")
}
