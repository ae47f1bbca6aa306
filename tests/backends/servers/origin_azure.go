package servers

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
)

// azureOrigin is a container of Azure's blobs.
type azureOrigin struct {
	client    *azblob.Client
	container string
}

func newAzureOrigin(s *Server, container string) (*azureOrigin, error) {
	key, err := azblob.NewSharedKeyCredential(AzureAccount, AzureKey)
	if err != nil {
		return nil, err
	}
	client, err := azblob.NewClientWithSharedKeyCredential(s.EndpointAt(s.Addr), key, nil)
	if err != nil {
		return nil, err
	}
	return &azureOrigin{client: client, container: container}, nil
}

func (o *azureOrigin) URL() string { return "az://" + o.container }

func (o *azureOrigin) Make(ctx context.Context) error {
	_, err := o.client.CreateContainer(ctx, o.container, nil)
	return err
}

func (o *azureOrigin) Remove(ctx context.Context) error {
	_, err := o.client.DeleteContainer(ctx, o.container, nil)
	return err
}

func (o *azureOrigin) Put(ctx context.Context, name string, data []byte) error {
	_, err := o.client.UploadBuffer(ctx, o.container, name, data, nil)
	return err
}

func (o *azureOrigin) Get(ctx context.Context, name string) ([]byte, error) {
	object, err := o.client.DownloadStream(ctx, o.container, name, nil)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer object.Body.Close()
	return io.ReadAll(object.Body)
}

func (o *azureOrigin) Delete(ctx context.Context, name string) error {
	_, err := o.client.DeleteBlob(ctx, o.container, name, nil)
	return err
}
