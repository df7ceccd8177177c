"""Files and objects: here, in S3 and on the hub; whole or not at all."""
