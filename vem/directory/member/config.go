package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
)

// Config is what a member is started with, the content of config.json.
type Config struct {
	// Name is unique in the cluster: that of the host.
	Name string `json:"name"`
	// Dir is the folder of the member, an absolute path.
	Dir string `json:"dir"`
	// ListenClient and ListenPeer are where it listens, for clients and for other members:
	// https://ADDRESS:PORT or unixs:///PATH, http or unix without TLS.
	ListenClient []string `json:"listen_client"`
	ListenPeer   []string `json:"listen_peer"`
	// AdvertiseClient and AdvertisePeer are where others reach it; empty: where it listens.
	AdvertiseClient []string `json:"advertise_client,omitempty"`
	AdvertisePeer   []string `json:"advertise_peer,omitempty"`
	// ClientTLS and PeerTLS are required for https and unixs.
	ClientTLS *TLS `json:"client_tls,omitempty"`
	PeerTLS   *TLS `json:"peer_tls,omitempty"`
	// Cluster has all members that there are when this one is started for the first time. Empty:
	// this one alone. Later the members know each other by themselves.
	Cluster []Peer `json:"cluster,omitempty"`
	// Token keeps members of different clusters apart that have the same addresses.
	Token string `json:"token"`
	// Join is that the cluster runs already, and has this member in its list ([Member.Add]).
	Join bool `json:"join,omitempty"`
	// QuotaBytes is how large the data may become before the directory is full; 0: 2 GiB.
	QuotaBytes int64 `json:"quota_bytes,omitempty"`
	// HistorySeconds is how long changes are kept for watches that were broken off; 0: an hour.
	HistorySeconds int `json:"history_s,omitempty"`
	// TickMillis is the time between heartbeats. An election begins when none has come for ten of
	// them. All members have the same. 0: 100, for networks with round trips of up to some 50 ms.
	TickMillis int `json:"tick_ms,omitempty"`
	// LogFileBytes is the size of a file of etcd's write-ahead log, two of which are made in
	// advance; 0: 8 MiB. etcd's own 64 MB make an empty member 123 MB large.
	LogFileBytes int64 `json:"log_file_bytes,omitempty"`
}

// TLS names the files of one side of mutual TLS. They are read again for each new connection, so
// that a renewed certificate needs no restart; a new CA needs one.
type TLS struct {
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
	CAFile   string `json:"ca_file"`
	// Installation, of ClientTLS, is that of the hosts which may connect to the member, unless they
	// were removed (see package guard). The certificates are then those of its hosts, and what it
	// listens at is https. Empty: whoever has a certificate of the CA may connect.
	Installation string `json:"installation,omitempty"`
	// ServerName is the name that the certificates of the other members have; empty: the host of
	// their URLs. It serves where members change their addresses.
	ServerName string `json:"server_name,omitempty"`
}

// Peer is a member as others see it.
type Peer struct {
	Name string   `json:"name"`
	URLs []string `json:"urls"` // its AdvertisePeer
}

// Defaults of a [Config].
const (
	DefaultQuotaBytes   = 2 << 30
	DefaultHistory      = time.Hour
	DefaultTick         = 100 * time.Millisecond
	DefaultLogFileBytes = 8 << 20
)

// Complete returns the configuration with its defaults filled in, or an error that says what is
// wrong with it.
func (c Config) Complete() (Config, error) {
	switch {
	case c.Name == "":
		return c, errors.New("member of the directory: no name was given")
	case c.Token == "":
		return c, errors.New("member of the directory: no token of its cluster was given")
	case !filepath.IsAbs(c.Dir):
		return c, fmt.Errorf("member of the directory: its folder %q is no absolute path", c.Dir)
	case c.QuotaBytes < 0, c.HistorySeconds < 0, c.TickMillis < 0, c.LogFileBytes < 0:
		return c, errors.New("member of the directory: sizes and times must not be negative")
	}
	for _, set := range []struct {
		what string
		urls []string
		tls  *TLS
	}{
		{"listen_client", c.ListenClient, c.ClientTLS},
		{"listen_peer", c.ListenPeer, c.PeerTLS},
	} {
		if err := checkURLs(set.urls, set.tls); err != nil {
			return c, fmt.Errorf("member of the directory: %s: %w", set.what, err)
		}
	}
	if err := c.checkSockets(); err != nil {
		return c, fmt.Errorf("member of the directory: %w", err)
	}
	if len(c.AdvertiseClient) == 0 {
		c.AdvertiseClient = c.ListenClient
	}
	if len(c.AdvertisePeer) == 0 {
		c.AdvertisePeer = c.ListenPeer
	}
	if len(c.Cluster) == 0 {
		c.Cluster = []Peer{{Name: c.Name, URLs: c.AdvertisePeer}}
	}
	if !slices.ContainsFunc(c.Cluster, func(p Peer) bool { return p.Name == c.Name }) {
		return c, fmt.Errorf("member of the directory: its cluster does not contain it, %s", c.Name)
	}
	c.QuotaBytes = orDefault(c.QuotaBytes, DefaultQuotaBytes)
	c.HistorySeconds = orDefault(c.HistorySeconds, int(DefaultHistory/time.Second))
	c.TickMillis = orDefault(c.TickMillis, int(DefaultTick/time.Millisecond))
	c.LogFileBytes = orDefault(c.LogFileBytes, DefaultLogFileBytes)
	return c, nil
}

// Installation is that of the hosts which may connect, or empty (see [TLS]).
func (c Config) Installation() string {
	if c.ClientTLS == nil {
		return ""
	}
	return c.ClientTLS.Installation
}

// checkSockets returns an error if etcd can't listen at unix sockets in the member's folder, which
// it does where package guard has the ports.
func (c Config) checkSockets() error {
	if c.Installation() == "" {
		return nil
	}
	if n := len(c.PeerSocket()); n > maxSocket {
		return fmt.Errorf("its folder %s is %d bytes too long for a unix socket in it", c.Dir, n-maxSocket)
	}
	for _, s := range slices.Concat(c.ListenClient, c.ListenPeer) {
		if !strings.HasPrefix(s, "https://") {
			return fmt.Errorf("%s: want https://ADDRESS:PORT", s)
		}
	}
	return nil
}

// maxSocket is how long the path of a unix socket may be (unix(7)).
const maxSocket = 107

func orDefault[T int | int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

func checkURLs(urls []string, tls *TLS) error {
	if len(urls) == 0 {
		return errors.New("no URL was given")
	}
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			return err
		}
		switch u.Scheme {
		case "https", "unixs":
			if tls == nil {
				return fmt.Errorf("%s needs certificates, and none were given", s)
			}
		case "http", "unix":
			if tls != nil {
				return fmt.Errorf("%s would ignore the certificates: want https or unixs", s)
			}
		default:
			return fmt.Errorf("%s: want https://ADDRESS:PORT or unixs:///PATH", s)
		}
	}
	return nil
}

// ReadConfig reads config.json.
func ReadConfig(path string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("read configuration of the directory's member: %w", err)
	}
	return c.Complete()
}

// StorePrefix is what the keys of all installations begin with in etcd (see [etcd.Options]).
const StorePrefix = "/"

// Keys is what the keys of an installation begin with in etcd.
func Keys(installation string) string { return StorePrefix + directory.Prefix(installation) }

// ConfigPath is where the configuration of a member lies whose folder is dir.
func ConfigPath(dir string) string { return filepath.Join(dir, "config.json") }

// The files of a member's folder.
func (c Config) configPath() string   { return ConfigPath(c.Dir) }
func (c Config) lockPath() string     { return filepath.Join(c.Dir, "lock") }
func (c Config) identityPath() string { return filepath.Join(c.Dir, "identity.json") }
func (c Config) logPath() string      { return filepath.Join(c.Dir, "log") }

// Served tells whether the member has served, ever.
func (c Config) Served() (bool, error) {
	_, err := os.Stat(c.identityPath())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// ClientSocket and PeerSocket are where etcd listens if there is an Installation.
func (c Config) ClientSocket() string { return filepath.Join(c.Dir, "client") }

// PeerSocket is that of the other members.
func (c Config) PeerSocket() string { return filepath.Join(c.Dir, "peer") }

// DataDir is where etcd's data lies.
func (c Config) DataDir() string { return filepath.Join(c.Dir, "data") }

// ReadyDir is where data that was restored, or replaced, lies until it is in its place.
func (c Config) ReadyDir() string { return filepath.Join(c.Dir, "data.ready") }

// endpoint is where this host reaches the member.
func (c Config) endpoint() string {
	for _, s := range c.ListenClient {
		if u, err := url.Parse(s); err == nil && (u.Scheme == "unix" || u.Scheme == "unixs") {
			return s
		}
	}
	return c.AdvertiseClient[0]
}
