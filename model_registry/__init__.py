"""What models are: cards, routes, and the choice between them. No web, no database."""
