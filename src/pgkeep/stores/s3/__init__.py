"""A bucket of S3, or of a service with the same protocol; requires the extra `s3` (botocore).

`client` makes the client, `errors` translates its errors, `bucket` sends requests, `upload` writes
an object while it is made, `store` puts the files of a backup into a bucket.
"""
