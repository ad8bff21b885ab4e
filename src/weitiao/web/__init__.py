"""`weitiao web`: the page for people who would rather look than type. A page is a view of files; a job is a `weitiao` process."""
