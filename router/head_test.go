package router

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// FuzzHead holds that the library reads of a head what it was made of, and nothing after it.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a%2Fb;c/../d?e=%20;f HTTP/1.1\r\nHost: a:80\r\nX: 1\r\nX: 2\r\nConnection: X-Y, close\r\nX-Y: 1\r\n\r\n",
		"HEAD //x HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://b/x?# HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: \r\nContent-Length: 0\r\nX-Cf-Instanceid: 1\r\n\r\n",
		"GET /\x7f HTTP/1.1\r\nHost: a\r\nx_y: \xff\r\n\r\n", "TRACE /? HTTP/1.1\r\nHost: [::1]\r\nCookie: a=b; c=d\r\n\r\n",
	} {
		f.Add([]byte(s), "app", "instance")
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "a\r\nb: c", "\x00")
	f.Fuzz(func(t *testing.T, data []byte, app, instance string) {
		in, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil || !quickRequest(in) {
			return
		}
		in.RemoteAddr = "9.9.9.9:9"
		x := &exchange{in: in, id: "id", last: &Backend{App: app, Instance: instance, Index: 7}}
		head, ok := x.appendHead(nil)
		if !ok {
			return
		}
		br := bufio.NewReader(bytes.NewReader(head))
		out, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", data, head, err)
		}
		if rest, _ := io.ReadAll(br); len(rest) > 0 || out.ContentLength != 0 || len(out.TransferEncoding) > 0 {
			t.Errorf("%q becomes %q, where %q is left", data, head, rest)
		}
		if out.Method != in.Method || out.Host != in.Host || out.URL.RequestURI() != in.URL.RequestURI() || out.ProtoMinor != 1 {
			t.Errorf("%q becomes %q", data, head)
		}
		want := http.Header{}
		for k, v := range in.Header {
			if !hop(k) && !namedInConnection(in.Header, k) && k != "Content-Length" {
				for _, one := range v {
					want.Add(k, strings.TrimSpace(one))
				}
			}
		}
		for k, v := range map[string]string{"X-Cf-Applicationid": strings.TrimSpace(app), "X-Cf-Instanceid": strings.TrimSpace(instance), "X-Cf-Instanceindex": "7",
			"X-Vcap-Request-Id": "id", "X-Forwarded-For": joinComma(append(in.Header["X-Forwarded-For"][:len(in.Header["X-Forwarded-For"]):len(in.Header["X-Forwarded-For"])], "9.9.9.9"))} {
			want[k] = []string{v}
		}
		for k, v := range map[string]string{"X-Forwarded-Proto": "http", "X-Request-Start": out.Header.Get("X-Request-Start")} {
			if want.Get(k) == "" {
				want[k] = []string{v}
			}
		}
		if namedInConnection(in.Header, "X-Forwarded-For") {
			want.Set("X-Forwarded-For", "9.9.9.9")
		}
		if !maps.EqualFunc(want, out.Header, func(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }) {
			t.Errorf("%q becomes %q, want %v", data, head, want)
		}
	})
}
