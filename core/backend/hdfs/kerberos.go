package hdfs

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/colinmarc/hdfs/v2"
	krb "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/shardstream/shardstream/core/backend"
)

// signIn adds Kerberos, where the secret has a keytab.
func signIn(o *hdfs.ClientOptions, c backend.Config) error {
	fields := c.Credentials
	o.DataTransferProtection = fields["protection"]
	known := []string{"", hdfs.DataTransferProtectionAuthentication, hdfs.DataTransferProtectionIntegrity, hdfs.DataTransferProtectionPrivacy}
	if !slices.Contains(known, o.DataTransferProtection) {
		return fmt.Errorf("the secret's protection is none of %s", strings.Join(known[1:], ", "))
	}
	if fields["keytab"] == "" && fields["principal"] == "" {
		return nil
	}
	name, realm, found := strings.Cut(fields["principal"], "@")
	if !found || name == "" || realm == "" {
		return errors.New("the secret's principal is to be USER@REALM")
	}
	content, err := base64.StdEncoding.DecodeString(fields["keytab"])
	if err != nil {
		return errors.New("the secret's keytab is not in base64")
	}
	keys := keytab.New()
	if err := keys.Unmarshal(content); err != nil {
		return errors.New("the secret's keytab is none")
	}
	path := cmp.Or(os.Getenv("KRB5_CONFIG"), "/etc/krb5.conf")
	where, err := config.Load(path)
	if err != nil {
		return fmt.Errorf("the node's %s, which says where Kerberos is: %w", path, err)
	}
	o.KerberosClient = krb.NewWithKeytab(name, realm, keys, where, krb.DisablePAFXFAST(true))
	o.KerberosServicePrincipleName = cmp.Or(fields["service_principal"], "nn/_HOST")
	return nil
}
