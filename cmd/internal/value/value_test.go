package value

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "4096": 4096, "1b": 1, "512M": 512 << 20, "512mb": 512 << 20, "512MiB": 512 << 20,
		"1.5G": 3 << 29, "2T": 2 << 40, "1k": 1024,
		"": -1, "0": -1, "M": -1, "-1M": -1, "1X": -1, "1Mi": -1, "1e3": -1, "0x10": -1, "inf": -1, "NaN": -1, "9999999T": -1, "1.2.3": -1, "1 M": -1,
	} {
		t.Run(text, func(t *testing.T) {
			got, err := ParseSize(text)
			if want < 0 {
				qt.Assert(t, qt.IsNotNil(err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(got, want))
		})
	}
}

func TestCPUs(t *testing.T) {
	for text, want := range map[string]float64{"1": 1, "1.5": 1.5, "0": -1, "-1": -1, "NaN": -1, "inf": -1, "": -1, "1e9": -1} {
		t.Run(text, func(t *testing.T) {
			got, err := ParseCPUs(text)
			if want < 0 {
				qt.Assert(t, qt.IsNotNil(err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(got, want))
		})
	}
}

func TestCount(t *testing.T) {
	n, err := ParseCount("100")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(n, 100))
	for _, text := range []string{"", "0", "-3", "1.5", "99999999999"} {
		_, err := ParseCount(text)
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%q", text))
	}
}

func TestBind(t *testing.T) {
	for text, want := range map[string]Bind{
		"/a:/b":    {"/a", "/b", ReadWrite},
		"/a:/b:ro": {"/a", "/b", ReadOnly},
		"/a:/b:rw": {"/a", "/b", ReadWrite},
		"data:/b":  {"data", "/b", ReadWrite},
		"":         {}, "/a": {}, ":/b": {}, "/a:b": {}, "/a:": {}, "/a:/b:x": {}, "/a:/b:ro:": {},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := ParseBind(text)
			if want == (Bind{}) {
				qt.Assert(t, qt.IsNotNil(err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(got, want))
		})
	}
}

func TestPublication(t *testing.T) {
	four, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for text, want := range map[string]Publication{
		"8080":               {TCP, netip.Addr{}, 8080, 8080},
		"8080:80":            {TCP, netip.Addr{}, 8080, 80},
		"8080:80/tcp":        {TCP, netip.Addr{}, 8080, 80},
		"53/udp":             {UDP, netip.Addr{}, 53, 53},
		"127.0.0.1:8080":     {TCP, four, 8080, 8080},
		"127.0.0.1:8080:80":  {TCP, four, 8080, 80},
		"[::1]:8080":         {TCP, six, 8080, 8080},
		"[::1]:53:5353/udp":  {UDP, six, 53, 5353},
		"":                   {},
		"0":                  {},
		"65536":              {},
		"80:":                {},
		":80":                {},
		"80/sctp":            {},
		"80/":                {},
		"127.0.0.1":          {},
		"127.0.0.1:":         {},
		"127.0.0:80":         {},
		"[127.0.0.1]:80":     {},
		"[::1]":              {},
		"[::1]80":            {},
		"[fe80::1%eth0]:80":  {},
		"::1:80":             {},
		"localhost:80":       {},
		"127.0.0.1:80:80:80": {},
		"80:80:80":           {},
		"+80":                {},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := ParsePublication(text)
			if want == (Publication{}) {
				qt.Assert(t, qt.IsNotNil(err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(got, want))
		})
	}
}

func TestPrefix(t *testing.T) {
	for text, want := range map[string]string{
		"10.77.0.1": "10.77.0.1/32", "10.77.0.9/24": "10.77.0.0/24", "fd77::1": "fd77::1/128",
		"": "", "x": "", "10.0.0.0/33": "", "fe80::1%eth0": "",
	} {
		t.Run(text, func(t *testing.T) {
			got, err := ParsePrefix(text)
			if want == "" {
				qt.Assert(t, qt.IsNotNil(err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(got.String(), want))
		})
	}
}

func TestIPv4(t *testing.T) {
	a, err := ParseIPv4("10.77.0.7")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(a, netip.MustParseAddr("10.77.0.7")))
	for _, text := range []string{"", "fd77::7", "10.77.0.7/16", "cache"} {
		_, err := ParseIPv4(text)
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%q", text))
	}
}

func TestWord(t *testing.T) {
	parse := Word(TCP, UDP)
	p, err := parse("udp")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(p, UDP))
	_, err = parse("UDP")
	qt.Assert(t, qt.ErrorMatches(err, `"UDP" is not one of tcp, udp`))
}

func TestFlags(t *testing.T) {
	var last int64
	one := One(&last, "N", ParseCount)
	var all []int64
	list := List(&all, "N", ParseCount)
	for _, f := range []interface {
		Set(string) error
		String() string
		Type() string
	}{one, list} {
		qt.Assert(t, qt.Equals(f.Type(), "N"))
		qt.Assert(t, qt.Equals(f.String(), ""))
		qt.Assert(t, qt.IsNil(f.Set("1")))
		qt.Assert(t, qt.IsNotNil(f.Set("x")))
		qt.Assert(t, qt.IsNil(f.Set("2")))
	}
	qt.Assert(t, qt.Equals(last, 2))
	qt.Assert(t, qt.Equals(one.String(), "2"))
	qt.Assert(t, qt.DeepEquals(all, []int64{1, 2}))
	qt.Assert(t, qt.Equals(list.String(), "1,2"))
}

// roundTrip checks that what a parser takes, printed, is taken again.
func roundTrip[T fmt.Stringer](f *testing.F, parse func(string) (T, error), seeds ...string) {
	f.Helper()
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parse(text)
		if err != nil {
			return
		}
		again, err := parse(v.String())
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%q printed as %q", text, v))
		qt.Assert(t, qt.CmpEquals(again, v, cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}))
	})
}

func FuzzPublication(f *testing.F) {
	roundTrip(f, ParsePublication, "8080", "127.0.0.1:8080:80/udp", "[::1]:53/udp", "[::ffff:1.2.3.4]:1")
}

func FuzzBind(f *testing.F) { roundTrip(f, ParseBind, "/a:/b", "a:/b:ro", "::") }

func FuzzPrefix(f *testing.F) { roundTrip(f, ParsePrefix, "10.77.0.1", "10.0.0.0/8", "fd77::/64") }

func FuzzSize(f *testing.F) {
	for _, s := range []string{"512M", "1.5G", "9223372036854775807", "1e400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSize(text); err == nil && n <= 0 {
			t.Errorf("%q gives %d", text, n)
		}
	})
}

func TestSetting(t *testing.T) {
	for text, want := range map[string]Setting{"A=b": {"A", "b"}, "A=": {"A", ""}, "A=b=c d": {"A", "b=c d"}, "A": {}, "=b": {}, "": {}} {
		got, err := ParseSetting(text)
		qt.Check(t, qt.Equals(got, want), qt.Commentf("%q", text))
		qt.Check(t, qt.Equals(err == nil, want.Key != ""), qt.Commentf("%q", text))
	}
}
