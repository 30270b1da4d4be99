package router

import (
	"strconv"
	"time"
)

// appendHead appends the head of the request for x.last: what forward would send. It refuses
// what could be read otherwise than it was meant.
func (x *exchange) appendHead(b []byte) ([]byte, bool) {
	u, in := x.in.URL, x.in.Header
	b = append(b, x.in.Method...)
	b = append(b, ' ')
	start := len(b)
	b = append(b, u.EscapedPath()...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	if u.Opaque != "" || len(b) == start || b[start] != '/' || !visible(b[start:]) || !visible(x.in.Host) {
		return b, false
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.in.Host...)
	b = append(b, '\r', '\n')
	conn := in["Connection"]
	plain := len(conn) == 0 || len(conn) == 1 && (conn[0] == "keep-alive" || conn[0] == "close")
	var prior []string
	var protoSet, startSet bool
	for k, values := range in {
		if !canonical(k) {
			return b, false
		}
		if reserved(k) || !plain && namedInConnection(in, k) {
			continue
		}
		switch k {
		case "X-Forwarded-For":
			prior = values
			continue
		case "X-Forwarded-Proto":
			protoSet = in.Get(k) != ""
		case "X-Request-Start":
			startSet = in.Get(k) != ""
		}
		if (k == "X-Forwarded-Proto" && !protoSet) || (k == "X-Request-Start" && !startSet) {
			continue
		}
		for _, v := range values {
			if !printable(v) {
				return b, false
			}
			b = appendField(b, k, v)
		}
	}
	forwarded := x.forwardedFor(prior)
	if forwarded == "" {
		forwarded = joinComma(prior)
	}
	if !printable(forwarded) {
		return b, false
	}
	if forwarded != "" || len(prior) > 0 {
		b = appendField(b, "X-Forwarded-For", forwarded)
	}
	if !protoSet {
		b = appendField(b, "X-Forwarded-Proto", proto(x.in))
	}
	if !startSet {
		b = append(b, "X-Request-Start: "...)
		b = strconv.AppendInt(b, time.Now().UnixMilli(), 10)
		b = append(b, '\r', '\n')
	}
	b = appendField(b, "X-Vcap-Request-Id", x.id)
	if !printable(x.last.App) || !printable(x.last.Instance) {
		return b, false
	}
	b = appendField(b, "X-Cf-Applicationid", x.last.App)
	b = appendField(b, "X-Cf-Instanceid", x.last.Instance)
	b = append(b, "X-Cf-Instanceindex: "...)
	b = strconv.AppendInt(b, int64(x.last.Index), 10)
	return append(b, "\r\n\r\n"...), true
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// visible tells what holds neither blanks nor control characters.
func visible[S string | []byte](s S) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// printable tells the value of a header that ends where its line does.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
