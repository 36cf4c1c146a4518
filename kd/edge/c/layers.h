/* What layers.c puts between the layers of a student (-include layers.h). */
void layer_done(int layer);
#define KDS_AFTER(layer) layer_done(layer);
