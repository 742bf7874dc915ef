"""What trains: any objective that follows the protocol, on any device."""
