"""One file a method; none imports another, and none imports torch before a plan is made."""
