package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func newToken(tb testing.TB) (Token, Record) {
	tb.Helper()
	token, record, err := NewToken(fingerprint([]byte("ca")), "a", noon, time.Hour)
	qt.Assert(tb, qt.IsNil(err))
	return token, record
}

func same(a, b Token) bool {
	return a.ID == b.ID && a.CA == b.CA && bytes.Equal(a.Secret.Bytes(), b.Secret.Bytes())
}

func TestToken(t *testing.T) {
	token, record := newToken(t)
	text := token.Text()
	qt.Assert(t, qt.Matches(text, "snapctl1-[a-z2-7]{104}"))
	qt.Assert(t, qt.IsTrue(strings.HasPrefix(text, tokenPrefix+string(token.ID))))
	for name, text := range map[string]string{
		"as it is": text, "upper case": strings.ToUpper(text), "spaces around": "  " + text + "\n",
		"broken into lines": text[:50] + "\n   " + text[50:],
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseToken(text)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsTrue(same(got, token)))
			qt.Assert(t, qt.IsTrue(record.Fits(got.Secret)))
		})
	}
	other, _ := newToken(t)
	qt.Assert(t, qt.IsFalse(record.Fits(other.Secret)))
	qt.Assert(t, qt.IsFalse(record.Fits(Secret{})))
	qt.Assert(t, qt.IsFalse(Record{SecretHash: Secret{}.hash()}.Fits(Secret{})))
	qt.Assert(t, qt.Equals(Token{}.Text(), ""))
	_, _, err := NewToken(token.CA, "a", noon, 0)
	qt.Assert(t, qt.IsNotNil(err))
	_, err = SecretOf(make([]byte, 19))
	qt.Assert(t, qt.ErrorIs(err, ErrTokenMalformed))
}

func TestParseTokenSaysWhatIsWrong(t *testing.T) {
	token, _ := newToken(t)
	text := token.Text()
	swapped := func() string {
		b := []byte(text)
		for i := 40; ; i++ {
			if b[i] != b[i+1] {
				b[i], b[i+1] = b[i+1], b[i]
				return string(b)
			}
		}
	}()
	mistyped := text[:60] + map[bool]string{true: "b", false: "a"}[text[60] == 'a'] + text[61:]
	for name, c := range map[string]struct{ text, says string }{
		"empty":            {" ", "it is empty"},
		"something else":   {"hello", `a token begins with "snapctl1-"`},
		"a newer one":      {"snapctl2-" + text[9:], "another version of snapctl"},
		"no hyphen":        {"snapctl1" + text[9:], "another version of snapctl has made it, or its beginning is mistyped"},
		"a part":           {text[:80], "it has 80 characters, and a whole token has 113"},
		"two of them":      {text + text[9:], "it has 217 characters"},
		"a 1 for an l":     {text[:20] + "1" + text[21:], "character 21 is none of a to z and 2 to 7"},
		"an umlaut":        {text[:20] + "ü" + text[21:], "character 21"},
		"mistyped":         {mistyped, "a character is mistyped"},
		"exchanged":        {swapped, "or two are exchanged"},
		"what a log shows": {token.String(), "character 26"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseToken(c.text)
			qt.Assert(t, qt.ErrorIs(err, ErrTokenMalformed))
			qt.Assert(t, qt.StringContains(err.Error(), c.says))
			qt.Assert(t, qt.IsFalse(strings.Contains(err.Error(), text[25:57])))
		})
	}
}

// TestTokenIsNotShown prints tokens and secrets in all ways in which they may get into a log.
func TestTokenIsNotShown(t *testing.T) {
	token, _ := newToken(t)
	secret := token.Text()[len(tokenPrefix)+16:][:30]
	type hides struct {
		token  Token // fmt calls no method of a field that is not exported
		secret Secret
		list   []Token
	}
	request := token.Join("b", nil)
	var out bytes.Buffer
	for _, v := range []any{
		token, &token,
		[]Token{token},
		map[string]Token{"x": token},
		token.Secret, &token.Secret, request, &request,
		hides{token, token.Secret, []Token{token}},
		&hides{token: token},
		struct{ T Token }{token},
		fmt.Errorf("join by %v", token),
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%c", "%U", "%t", "%10.3v"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("join", slog.Any("what", v))
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	shown := out.String()
	qt.Assert(t, qt.StringContains(shown, string(token.ID)))
	for name, form := range map[string]string{
		"base32": secret, "bytes": string(token.Secret.Bytes()), "hex": fmt.Sprintf("%x", token.Secret.Bytes()),
		"upper-case hex": fmt.Sprintf("%X", token.Secret.Bytes()),
		"decimal":        strings.Trim(fmt.Sprintf("%d", token.Secret.Bytes()), "[]"),
		"Go":             strings.TrimPrefix(fmt.Sprintf("%#v", token.Secret.Bytes()), "[]byte"),
	} {
		qt.Assert(t, qt.IsFalse(strings.Contains(shown, form)), qt.Commentf(name))
	}
}

func TestRecord(t *testing.T) {
	_, record := newToken(t)
	record.Used = &Use{Host: "b", Key: fingerprint([]byte("b")), At: noon}
	b, err := json.Marshal(record)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.StringContains(string(b), `"made":"2026-11-30T12:00:00Z","made_by":"a","expires":"2026-11-30T13:00:00Z"`))
	var again Record
	qt.Assert(t, qt.IsNil(json.Unmarshal(b, &again)))
	qt.Assert(t, qt.DeepEquals(again, record))
	for _, bad := range []string{`{"secret_sha256":"00"}`, `{"secret_sha256":"` + strings.Repeat("x", 64) + `"}`} {
		qt.Assert(t, qt.IsNotNil(json.Unmarshal([]byte(bad), &again)))
	}
}

// FuzzParseToken: a text is no token, with an error that says so, or it is the token's own text.
func FuzzParseToken(f *testing.F) {
	token, _ := newToken(f)
	f.Add(token.Text())
	f.Add(strings.ToUpper(token.Text()) + "\n")
	f.Add(token.String())
	f.Add("snapctl1-")
	f.Add("snapctl2-" + token.Text()[9:])
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseToken(text)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrTokenMalformed))
			return
		}
		qt.Assert(t, qt.Equals(got.Text(), strings.ToLower(strings.Join(strings.Fields(text), ""))))
		again, err := ParseToken(got.Text())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(same(got, again)))
	})
}
