"""What runs inside ComfyUI and is no node: every access to a ComfyUI internal lies here."""
