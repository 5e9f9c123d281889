package etcd_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/cluster"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/etcd"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	in := cluster.New(t, 1, nil)
	other := cluster.Prepare(t)
	at := in.Endpoints()

	nobody := listen(t)
	nobody.Close() // its port is what is wanted
	silent := listen(t)
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	trusting := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}

	noCert := in.TLS(t)
	noCert.Certificates = nil
	foreignCert := in.TLS(t) // Go's client keeps a certificate to itself that the server would not accept
	foreignCert.Certificates = other.TLS(t).Certificates
	foreignCA := in.TLS(t)
	foreignCA.RootCAs = other.TLS(t).RootCAs

	for name, test := range map[string]struct {
		endpoint string
		tls      *tls.Config
		want     error
		says     string
	}{
		"no certificate":      {at[0], noCert, etcd.ErrTrust, "wants a certificate of its CA"},
		"foreign certificate": {at[0], foreignCert, etcd.ErrTrust, "wants a certificate of its CA"},
		"foreign CA":          {at[0], foreignCA, etcd.ErrTrust, "another CA"},
		"nobody listens":      {"https://" + nobody.Addr().String(), in.TLS(t), directory.ErrUnavailable, "connection refused"},
		"no answer":           {"https://" + silent.Addr().String(), in.TLS(t), directory.ErrUnavailable, "no answer in time"},
		"no answer, plain":    {"http://" + silent.Addr().String(), nil, directory.ErrUnavailable, "no answer in time"},
		"no TLS there":        {"https://" + web.Listener.Addr().String(), in.TLS(t), etcd.ErrNotEtcd, ""},
		"a web server":        {"http://" + web.Listener.Addr().String(), nil, etcd.ErrNotEtcd, ""},
		"a web server, TLS":   {secure.URL, trusting, etcd.ErrNotEtcd, ""},
		"TLS there":           {"http://" + at[0][len("https://"):], nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := etcd.Open(t.Context(), etcd.Options{
				Endpoints: []string{test.endpoint}, TLS: test.tls, Prefix: "x", Timeout: time.Second, Log: in.Log,
			})
			t.Log(err)
			qt.Assert(t, qt.IsNotNil(err))
			if test.want != nil {
				qt.Check(t, qt.ErrorIs(err, test.want))
			}
			qt.Check(t, qt.StringContains(err.Error(), test.says))
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { l.Close() }) // one test closed it before
	return l
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, opt := range map[string]etcd.Options{
		"no prefix":            {Endpoints: []string{"http://127.0.0.1:1"}},
		"no endpoint":          {Prefix: "x"},
		"no scheme":            {Prefix: "x", Endpoints: []string{"127.0.0.1:1"}},
		"TLS would be dropped": {Prefix: "x", Endpoints: []string{"http://127.0.0.1:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS13}},
		"no certificate":       {Prefix: "x", Endpoints: []string{"https://127.0.0.1:1"}},
	} {
		opt.Log = log
		_, err := etcd.Open(t.Context(), opt)
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", name))
	}
}
