"""What a published artifact is: its directory, its manifest, what it was made from, and its `.pt2`
package."""
