package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/dewpoint-go/dewpoint/staging"
)

// explain makes of any failure the *staging.Error that says what happened and what helps.
func (f *Fetcher) explain(ctx, limited context.Context, s *session, err error) *staging.Error {
	e := &staging.Error{Reason: staging.RegistryUnavailable, Staging: s.req.ID, Name: "image " + s.name, Phase: staging.PhasePlan, Retryable: true, Err: err}
	if d := s.pinned(); d != "" {
		e.Name += "@" + d
	}
	switch {
	case ctx.Err() != nil:
		e.Reason, e.Err, e.Retryable = staging.Canceled, context.Cause(ctx), false
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e.Reason = staging.Timeout
		}
		return e
	case errors.Is(context.Cause(limited), errLimit):
		e.Text, e.Err = fmt.Sprintf("%s did not give it within %v", s.host, f.cfg.Timeout), context.DeadlineExceeded
		e.Cure = "try again; if the registry is slow, allow more time (image.Config.Timeout)"
		return e
	}
	if h, ok := errors.AsType[*httpError](err); ok {
		f.explainStatus(e, s, h)
		return e
	}
	if x, ok := errors.AsType[*fault](err); ok {
		e.Text, e.Cure, e.Err = x.text, x.cure, nil // its text has all of it
		if e.Retryable = x.retry; x.reason != "" {
			e.Reason = x.reason
		}
		return e
	}
	if x, ok := errors.AsType[*lieError](err); ok {
		e.Reason, e.Text, e.Err, e.Retryable = staging.ImageInvalid, x.Error(), nil, false
		e.Cure = "the registry, or something on the way, has damaged it: push the image anew"
		return e
	}
	if x, ok := errors.AsType[*sizeError](err); ok {
		e.Reason, e.Text, e.Err, e.Retryable = staging.ImageInvalid, x.Error(), nil, false
		e.Cure = "name a container image; manifests and configurations are small"
		return e
	}
	f.explainNetwork(e, s, err)
	return e
}

// explainStatus is for what a registry, or who gives its tokens, has answered.
func (f *Fetcher) explainStatus(e *staging.Error, s *session, h *httpError) {
	has := func(c transport.ErrorCode) bool { return slices.Contains(h.codes, c) }
	e.Err = nil // its text is in what follows
	no := func(text, cure string) {
		e.Reason, e.Text, e.Cure, e.Retryable = staging.ImageInvalid, text, cure, false
	}
	repo := s.host + "/" + s.ref.Context().RepositoryStr()
	switch {
	case h.status == http.StatusUnauthorized && h.login, h.status == http.StatusForbidden && h.what == "token" && h.login:
		no(h.place.host+" refused the credentials"+h.text, "check user name and password, and that they may read "+repo)
	case h.status == http.StatusUnauthorized:
		no(h.place.host+" shows it to nobody without a login, or there is no such image"+h.text, "check the name, or give user name and password")
	case h.status == http.StatusForbidden || has(transport.DeniedErrorCode):
		no(h.place.host+" does not let this user have it"+h.text, "check the name, or give credentials that may read "+repo)
	case h.status == http.StatusTooManyRequests || has(transport.TooManyRequestsErrorCode):
		e.Text, e.Cure = h.place.host+" lets nobody ask so often"+h.text, "log in, which may allow more, or try again later"
		if h.asked {
			e.Text = fmt.Sprintf("%s takes no more requests until %s%s", h.place.host, h.after.UTC().Format(time.RFC3339), h.text)
			e.Cure = "try again then, or log in, which may allow more"
		}
	case h.status == http.StatusNotFound && h.what == "blobs":
		no(h.place.host+" has its manifest, but not its configuration", "push the image anew")
	case h.status == http.StatusNotFound && has(transport.NameUnknownErrorCode):
		no(fmt.Sprintf("%s has no repository %s", h.place.host, s.ref.Context().RepositoryStr()), "check the name; a private one may need user name and password")
	case h.status == http.StatusNotFound && h.what == "manifests":
		no(fmt.Sprintf("%s has no such image: %s of %s is not there", h.place.host, s.ref.Identifier(), s.ref.Context().RepositoryStr()), "check its name and tag")
	case h.status >= 500:
		e.Text, e.Cure = h.Error(), "try again later"
	default:
		e.Text, e.Cure, e.Retryable = h.Error(), "is "+h.place.host+" a registry?", false
	}
}

// explainNetwork is for who was not reached.
func (f *Fetcher) explainNetwork(e *staging.Error, s *session, err error) {
	e.Text = s.host + " was not reached"
	e.Cure = "check the name of the registry, and whether it can be reached from here; behind a proxy, set image.Config.HTTPSProxy"
	var cause error
	if u, ok := errors.AsType[*url.Error](err); ok { // the URL says nothing more
		cause = u.Err
		e.Err = cause
	}
	if r, ok := errors.AsType[*redirectError](err); ok {
		e.Text, e.Cure, e.Err, e.Retryable = s.host+" is not followed: "+r.text, "check the name of the registry", nil, false
		return
	}
	if errors.Is(err, context.DeadlineExceeded) {
		e.Text, e.Err = fmt.Sprintf("%s did not answer within %v", s.host, f.cfg.Answer), context.DeadlineExceeded
		e.Cure = "try again; if the registry is slow, allow more time (image.Config.Answer)"
		return
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
		e.Text, e.Cure, e.Err, e.Retryable = "there is no host "+oneLine(d.Name), "check the name of the registry", nil, false
		return
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		e.Text, e.Retryable = "the certificate of "+s.host+" is not trusted", false
		e.Cure = "give its authority's certificate (image.Config.CAs), or, in a network that you trust, set image.Registry.Insecure"
		return
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		e.Text, e.Err, e.Retryable = s.host+" does not speak HTTPS", nil, false
		e.Cure = "in a network that you trust, set image.Registry.Insecure for it"
	}
}
