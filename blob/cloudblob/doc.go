// Package cloudblob keeps blobs in the object stores that gocloud.dev/blob reaches: S3 and
// what speaks its language, Google Cloud Storage, Azure Blob Storage, and more. Open a
// bucket with one of its drivers and give it to [New]:
//
//	bucket, err := gcblob.OpenBucket(ctx, "s3://my-bucket?region=eu-central-1")
//	…
//	defer bucket.Close()
//	store := cloudblob.New(bucket)
//
// Which drivers a program links is its own choice, made by import.
//
// Things to know:
//   - Durable is what the bucket is. The driver fileblob never syncs to the disk: on a local
//     disk use blob.Dir. For tests open it with NoTempDir (its temporary files are then on
//     the same file system) and MetadataDontWrite (else each blob has a second file, and a
//     crash can leave one alone).
//   - gcblob.PrefixedBucket closes the bucket that it is given; open that bucket once more if
//     you need it, too.
//   - An upload that is given up may leave parts that S3 charges for and nobody sees. Give
//     the bucket a lifecycle rule that aborts incomplete uploads after a day.
package cloudblob
