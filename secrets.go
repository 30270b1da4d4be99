package dewpoint

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/state"
)

// login is the credentials for the registry of an app's image.
type login struct{ Host, Username, Password string }

func (l login) empty() bool { return l.Username == "" && l.Password == "" }

// String keeps it out of whatever is printed.
func (l login) String() string { return "credentials for " + l.Host }

// sealedLogin is a login as the journal has it.
type sealedLogin struct {
	App    string `json:"app"`
	Sealed []byte `json:"sealed"` // nonce and AES-GCM of its JSON, bound to the app
}

var logins = state.NewTable("imagelogins", func(l sealedLogin) string { return l.App })

// openSeal takes Config.SecretKey.
func (p *Platform) openSeal() error {
	if p.cfg.SecretKey == nil {
		return nil
	}
	if len(p.cfg.SecretKey) != 32 {
		return fmt.Errorf("Config.SecretKey has %d bytes; give 32 random ones, or none", len(p.cfg.SecretKey))
	}
	b, err := aes.NewCipher(p.cfg.SecretKey)
	if err != nil {
		return err
	}
	p.seal, err = cipher.NewGCM(b)
	return err
}

// keepLogin keeps the credentials of an app's image in place of those that it has; the returned function does what is to be done in
// the database.
func (p *Platform) keepLogin(app string, l login) (put func(*state.Tx) error, err error) {
	p.forgetLogin(app)
	if l.empty() {
		return func(tx *state.Tx) error { logins.Delete(tx, app); return nil }, nil
	}
	if p.seal == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.memory[app] = l
		return func(*state.Tx) error { return nil }, nil
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, p.seal.NonceSize())
	_, _ = rand.Read(nonce) // it never fails
	row := sealedLogin{App: app, Sealed: p.seal.Seal(nonce, nonce, text, []byte(app))}
	return func(tx *state.Tx) error { return logins.Put(tx, row) }, nil
}

// forgetLogin forgets what is in memory.
func (p *Platform) forgetLogin(app string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.memory, app)
}

// loginOf returns the credentials of an app's image. What was sealed with another key is as good as none.
func (p *Platform) loginOf(app string) (login, bool) {
	p.mu.Lock()
	l, ok := p.memory[app]
	p.mu.Unlock()
	if ok || p.seal == nil {
		return l, ok
	}
	row, ok := logins.Get(p.db.View(), app)
	if n := p.seal.NonceSize(); ok && len(row.Sealed) > n {
		text, err := p.seal.Open(nil, row.Sealed[:n], row.Sealed[n:], []byte(app))
		if err == nil && json.Unmarshal(text, &l) == nil {
			return l, true
		}
	}
	return login{}, false
}

// loginer is a power of an ImageFetcher: credentials that are not an app's, but known for a registry.
type loginer interface {
	Login(ctx context.Context, registry string) (username, password string, err error)
}

// imageLogin gives a cell the credentials for a work's image: its app's, or those that are known for the registry.
func (p *Platform) imageLogin(ctx context.Context, w cell.Work) (string, string, error) {
	host := registryOf(w.Spec.Image)
	if l, ok := p.loginOf(w.Log.App); ok && l.Host == host {
		return l.Username, l.Password, nil
	}
	if k, ok := p.cfg.Images.(loginer); ok {
		return k.Login(ctx, host)
	}
	return "", "", nil
}
