"""The verdict of campaigns for people: a page, pictures, a text summary."""
