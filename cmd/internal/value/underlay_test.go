package value

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestUnderlayAddress(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7":                    "192.0.2.7",
		"192.0.2.7%eth1":               "192.0.2.7%eth1",
		"192.0.2.7%eth1,priority=10":   "192.0.2.7%eth1,priority=10",
		"192.0.2.7,priority=-1":        "!",
		"192.0.2.7,priority=0":         "192.0.2.7",
		"2001:db8::7":                  "2001:db8::7",
		"fe80::7%eth0":                 "fe80::7%eth0",
		"::ffff:192.0.2.7":             "192.0.2.7",
		"":                             "!",
		"eth0":                         "!",
		"192.0.2.7:7077":               "!",
		"192.0.2.7%":                   "!",
		"192.0.2.7%a/b":                "!",
		"192.0.2.7%a-very-long-device": "!",
		"192.0.2.7,":                   "!",
		"192.0.2.7,priority=":          "!",
		"192.0.2.7,priority=1001":      "!",
		"192.0.2.7,metric=1":           "!",
		"192.0.2.7,priority=1,x=2":     "!",
		"127.0.0.1":                    "!",
		"0.0.0.0":                      "!",
		"::":                           "!",
		"224.0.0.1":                    "!",
		"fe80::7":                      "!",
	} {
		a, err := ParseUnderlayAddress(text)
		if want == "!" {
			qt.Check(t, qt.ErrorMatches(err, `.* is not ADDR\[%DEVICE\]\[,priority=N\].*`), qt.Commentf("%s", text))
			continue
		}
		qt.Check(t, qt.IsNil(err), qt.Commentf("%s", text))
		qt.Check(t, qt.Equals(a.String(), want))
	}
}

func TestHostPort(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7":         "192.0.2.7:7077",
		"192.0.2.7:80":      "192.0.2.7:80",
		"2001:db8::7":       "[2001:db8::7]:7077",
		"[2001:db8::7]":     "[2001:db8::7]:7077",
		"[2001:db8::7]:80":  "[2001:db8::7]:80",
		"fe80::7%eth0":      "[fe80::7%eth0]:7077",
		"host-a":            "host-a:7077",
		"host-a.example:80": "host-a.example:80",
		"":                  "!",
		":80":               "!",
		"host:0":            "!",
		"host:70000":        "!",
		"host:x":            "!",
		"[host]:80":         "!",
		"[2001:db8::7]:0":   "!",
		"https://host":      "!",
		"user@host":         "!",
	} {
		got, err := ParseHostPort(text)
		if want == "!" {
			qt.Check(t, qt.ErrorMatches(err, `.* is not ADDRESS\[:PORT\].*`), qt.Commentf("%s", text))
			continue
		}
		qt.Check(t, qt.IsNil(err), qt.Commentf("%s", text))
		qt.Check(t, qt.Equals(got, want))
	}
}

func FuzzUnderlayAddress(f *testing.F) {
	roundTrip(f, ParseUnderlayAddress, "192.0.2.7%eth1,priority=10", "fe80::1%eth0", "2001:db8::7,priority=3")
}
