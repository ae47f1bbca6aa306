package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// maxSecretFile bounds the file that a secret's fields are read from.
const maxSecretFile = 1 << 20

func newSecret(a *app) *cobra.Command {
	command := &cobra.Command{Use: "secret", Short: "Keep credentials of backends in the cluster"}
	command.AddCommand(newSecretSet(a), newSecretLs(a), newSecretRm(a))
	return command
}

func newSecretSet(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "set NAME FIELD=VALUE... | --from-file FILE",
		Short: "Store a secret, new or in place of the one of that name",
		Long: `set stores a secret: fields as the backend's guide names them, such as
access_key_id and secret_access_key for S3. Nothing shows them again. Arguments of a
command can be seen by others on this machine: --from-file reads lines FIELD=VALUE,
and FIELD=@PATH takes what a file has, such as a key in JSON. - is stdin. Buckets that
have the secret use the new one within seconds.`,
		Example: `  shardstream secret set aws --from-file aws.env
  shardstream secret set google credentials_json=@service-account.json
  echo "key=$AZURE_KEY" | shardstream secret set azure account=photos --from-file -`,
		Args: named(cobra.MinimumNArgs(1)),
	}
	file := command.Flags().String("from-file", "", "file with lines FIELD=VALUE, - for stdin")
	command.RunE = func(c *cobra.Command, args []string) error {
		data := map[string]string{}
		for _, field := range args[1:] {
			if err := addField(data, field); err != nil {
				return err
			}
		}
		if *file != "" {
			if err := a.readFields(data, *file); err != nil {
				return err
			}
		}
		if len(data) == 0 {
			return usagef("say what is secret: FIELD=VALUE, FIELD=@PATH or --from-file")
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		secret, err := client.PutSecret(c.Context(), args[0], data)
		if err == nil {
			a.printf("secret %s has the fields %s\n", secret.Name, strings.Join(secret.Fields, ", "))
		}
		return err
	}
	return command
}

// addField takes FIELD=VALUE or FIELD=@PATH. Its errors don't have the value.
func addField(data map[string]string, text string) error {
	field, value, ok := strings.Cut(text, "=")
	field = strings.TrimSpace(field)
	if !ok || field == "" {
		return usagef("fields are FIELD=VALUE or FIELD=@PATH, one of them has no = or no name")
	}
	if _, twice := data[field]; twice {
		return usagef("field %s is there twice", field)
	}
	if path, isFile := strings.CutPrefix(value, "@"); isFile {
		content, err := readSmall(path)
		if err != nil {
			return err
		}
		value = strings.TrimRight(content, "\r\n") // that the file ends with a line is none of the credential
	}
	data[field] = value
	return nil
}

func readSmall(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err == nil && len(content) > maxSecretFile {
		err = fmt.Errorf("%s is larger than a secret may be", path)
	}
	return string(content), err
}

// readFields reads lines of FIELD=VALUE, as in a file of environment variables: empty ones and those that begin with #
// are passed over.
func (a *app) readFields(data map[string]string, path string) error {
	in := a.in
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	lines := bufio.NewScanner(io.LimitReader(in, maxSecretFile))
	lines.Buffer(nil, maxSecretFile)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := addField(data, line); err != nil {
			return err
		}
	}
	if lines.Err() != nil {
		return fmt.Errorf("%s can't be read as lines FIELD=VALUE", path)
	}
	return nil
}

func newSecretLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List secrets and the names of their fields",
		Example: "  shardstream secret ls",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := client.Secrets(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.SecretList{Secrets: orEmpty(list)})
		}
		return a.table("SECRET\tFIELDS\tSTORED", func(w io.Writer) {
			for i := range list {
				s := &list[i]
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, strings.Join(s.Fields, ","), s.Created.Local().Format(time.DateTime))
			}
		})
	}
	return command
}

func newSecretRm(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove secrets that no bucket needs",
		Example: "  shardstream secret rm aws",
		Args:    named(cobra.MinimumNArgs(1)),
	}
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := client.DeleteSecret(c.Context(), name); err != nil {
				return err
			}
			a.printf("removed secret %s\n", name)
		}
		return nil
	}
	return command
}
