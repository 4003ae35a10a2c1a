"""The command line: words in, sentences and exit statuses out."""
