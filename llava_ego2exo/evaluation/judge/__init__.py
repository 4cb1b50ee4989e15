"""The judge: descriptions and unparsed replies in, scores from 0 to 5 and option keys out.

A score that the judge failed to give is missing, never 0; every answer is cached in the results folder by content.
"""
