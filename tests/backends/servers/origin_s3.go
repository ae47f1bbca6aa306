package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// s3Origin is a bucket of S3.
type s3Origin struct {
	client *s3.Client
	bucket string
}

func newS3Origin(s *Server, bucket string) *s3Origin {
	return &s3Origin{bucket: bucket, client: s3.New(s3.Options{
		Region: S3Region, BaseEndpoint: aws.String("http://" + s.Addr), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(S3AccessKey, S3SecretKey, ""),
	})}
}

func (o *s3Origin) URL() string { return "s3://" + o.bucket }

func (o *s3Origin) Make(ctx context.Context) error {
	_, err := o.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &o.bucket})
	return err
}

func (o *s3Origin) Remove(ctx context.Context) error {
	pages := s3.NewListObjectsV2Paginator(o.client, &s3.ListObjectsV2Input{Bucket: &o.bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, object := range page.Contents {
			if err := o.Delete(ctx, *object.Key); err != nil {
				return err
			}
		}
	}
	_, err := o.client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &o.bucket})
	return err
}

func (o *s3Origin) Put(ctx context.Context, name string, data []byte) error {
	_, err := o.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &o.bucket, Key: &name, Body: bytes.NewReader(data)})
	return err
}

func (o *s3Origin) Get(ctx context.Context, name string) ([]byte, error) {
	object, err := o.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &o.bucket, Key: &name})
	var missing *types.NoSuchKey
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer object.Body.Close()
	return io.ReadAll(object.Body)
}

func (o *s3Origin) Delete(ctx context.Context, name string) error {
	_, err := o.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &o.bucket, Key: &name})
	return err
}
