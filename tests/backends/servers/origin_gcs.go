package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
)

// gcsOrigin speaks the JSON API of GCS.
type gcsOrigin struct{ base, bucket string }

func (o *gcsOrigin) URL() string { return "gs://" + o.bucket }

func (o *gcsOrigin) objects() string { return o.base + "/storage/v1/b/" + o.bucket + "/o" }

func (o *gcsOrigin) Make(ctx context.Context) error {
	body, err := json.Marshal(map[string]string{"name": o.bucket})
	if err != nil {
		return err
	}
	_, err = o.ask(ctx, http.MethodPost, o.base+"/storage/v1/b?project=test", "application/json", body)
	return err
}

func (o *gcsOrigin) Remove(ctx context.Context) error {
	content, err := o.ask(ctx, http.MethodGet, o.objects(), "", nil)
	if err != nil {
		return err
	}
	var list struct {
		Items []struct{ Name string }
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return err
	}
	for _, item := range list.Items {
		if err := o.Delete(ctx, item.Name); err != nil {
			return err
		}
	}
	_, err = o.ask(ctx, http.MethodDelete, o.base+"/storage/v1/b/"+o.bucket, "", nil)
	return err
}

func (o *gcsOrigin) Put(ctx context.Context, name string, data []byte) error {
	at := o.base + "/upload/storage/v1/b/" + o.bucket + "/o?uploadType=media&name=" + url.QueryEscape(name)
	_, err := o.ask(ctx, http.MethodPost, at, "application/octet-stream", data)
	return err
}

func (o *gcsOrigin) Get(ctx context.Context, name string) ([]byte, error) {
	return o.ask(ctx, http.MethodGet, o.objects()+"/"+escaped(name)+"?alt=media", "", nil)
}

func (o *gcsOrigin) Delete(ctx context.Context, name string) error {
	_, err := o.ask(ctx, http.MethodDelete, o.objects()+"/"+escaped(name), "", nil)
	return err
}

func (o *gcsOrigin) ask(ctx context.Context, method, at, contentType string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s %s: %w", method, at, fs.ErrNotExist)
	case answer.StatusCode >= http.StatusMultipleChoices:
		return nil, fmt.Errorf("%s %s: %s: %s", method, at, answer.Status, content)
	}
	return content, nil
}
